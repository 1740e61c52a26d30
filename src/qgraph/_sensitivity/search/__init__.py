"""Searches: what asks an engine many questions to settle one choice."""
