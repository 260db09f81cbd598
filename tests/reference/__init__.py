"""Plain, slow forms of what the package computes fast."""
