"""Fast training path of LoRA adapters on a CPU; see :mod:`.block`."""
