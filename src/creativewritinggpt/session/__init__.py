"""The interactive session: a story, a model, a prompt and the commands between them."""
