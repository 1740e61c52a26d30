"""Running graphs on onnxruntime: sessions, feeds, distances between outputs."""
