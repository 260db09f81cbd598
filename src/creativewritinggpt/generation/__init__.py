"""Writing: the decoding engine, its samplers and backends, presets, batches, the plain session."""
