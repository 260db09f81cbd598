"""Forward passes of the analyses: prefix cache, gradients, memory."""
