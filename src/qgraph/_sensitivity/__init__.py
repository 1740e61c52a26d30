"""Which nodes hurt when quantized, by how much; profiles cut from that."""
