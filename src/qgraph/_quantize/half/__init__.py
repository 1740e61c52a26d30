"""From an fp32 model to one in fp16, with what overflows or loses too much kept in fp32."""
