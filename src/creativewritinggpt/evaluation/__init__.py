"""Judging a model: how well it predicts text that it has not seen."""
