"""Files in and out: models, JSON documents, whatever is written atomically."""
