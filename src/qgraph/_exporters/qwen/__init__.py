"""Decoders of one shape: Qwen2.5-VL's language model, Qwen2, Qwen3; Llama, SmolLM and Mistral."""
