"""The evaluation as tables, JSON and one HTML page."""
