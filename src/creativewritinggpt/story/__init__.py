"""Stories: a tree of passages, the model's view of it, its file, import and export."""
