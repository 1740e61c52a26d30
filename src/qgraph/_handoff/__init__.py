"""The bundle for TensorRT: what a person needs who builds the engine and never saw qgraph."""
