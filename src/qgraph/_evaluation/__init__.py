"""Variants of a model side by side: quality, latency, size, and a page to look at."""
