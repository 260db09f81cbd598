"""Multiple-choice tasks and the lm-evaluation-harness adapter."""
