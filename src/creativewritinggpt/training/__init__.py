"""Fine-tuning: the loop and what it needs, from the schedule to the picture of the curves."""
