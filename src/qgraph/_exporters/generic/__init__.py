"""Any ONNX file that no family claims."""
