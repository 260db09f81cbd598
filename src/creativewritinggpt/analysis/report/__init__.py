"""The record of an analysis, its summary and its HTML page."""
