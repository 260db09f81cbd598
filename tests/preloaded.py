"""What a run imports, so that a process forked from one that has it starts at once."""

import matplotlib.pyplot
import peft
import transformers.models.gpt2.modeling_gpt2

import creativewritinggpt.cli
import creativewritinggpt.commands.train
import creativewritinggpt.generation.engine
import creativewritinggpt.training.run

__all__ = ["creativewritinggpt", "matplotlib", "peft", "transformers"]
