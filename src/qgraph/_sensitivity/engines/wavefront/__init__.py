"""The `wavefront` engine: what lies above a node is never computed twice."""
