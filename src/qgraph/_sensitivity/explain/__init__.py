"""What a report says beside its scores: causes, warnings, cost."""
