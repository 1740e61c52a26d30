"""Everything that knows a model family; a folder each."""
