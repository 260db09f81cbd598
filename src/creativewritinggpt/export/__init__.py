"""Export of models for other programs: safetensors, GGUF, LoRA as GGUF, hub folders."""
