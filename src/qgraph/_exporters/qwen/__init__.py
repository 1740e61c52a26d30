"""Decoders of the Qwen line: Qwen2.5-VL's language model, Qwen2, Qwen3."""
