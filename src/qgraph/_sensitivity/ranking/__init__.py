"""From scores to ranks and profiles, and rankings held against each other."""
