"""A story as a tree of passages: what is written, what the model sees of it, and its files."""
