"""Who computes the scores."""
