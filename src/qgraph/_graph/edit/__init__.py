"""Finding the nodes worth quantizing and rewriting the graph around them."""
