"""Rules of TensorRT for Q/DQ models: what does not build, what is slower, what brings nothing."""
