"""The server: one thread owns the model, an ASGI application speaks to clients."""
