"""SmoothQuant on the graph: activation outliers moved into weights, the function unchanged."""
