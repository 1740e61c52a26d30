"""The ONNX graph: reading and writing it, editing it, running it."""
