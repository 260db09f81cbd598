"""Declared settings, the configuration of a run, recipes."""
