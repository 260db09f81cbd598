"""Forward passes of GPT-2, Llama and Qwen models, and of transformers behind one interface."""
