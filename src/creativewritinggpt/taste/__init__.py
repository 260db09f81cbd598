"""The writer's taste, learnt from their choices."""
