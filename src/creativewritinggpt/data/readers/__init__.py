"""File formats: each reader yields documents."""
