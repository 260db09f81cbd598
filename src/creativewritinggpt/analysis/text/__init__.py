"""Words, names and speech in a text."""
