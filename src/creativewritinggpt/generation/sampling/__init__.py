"""Sampling: settings, presets, samplers, penalties, and the chain that applies them."""
