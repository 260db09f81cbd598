"""Where documents come from: a writer's own files and the named sources, a file each."""
