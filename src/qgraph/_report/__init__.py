"""The page, the Markdown and the charts of a run."""
