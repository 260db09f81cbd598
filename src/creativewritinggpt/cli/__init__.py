"""The command line: ``cwgpt`` and its verbs."""
