"""Text generation: engine, rows, sampling, results, presets, prompt files."""
