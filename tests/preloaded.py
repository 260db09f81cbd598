"""What a run imports, so that a process forked from one that has it starts at once."""

import accelerate
import matplotlib.pyplot
import peft
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama

import creativewritinggpt.cli.evaluate
import creativewritinggpt.cli.main
import creativewritinggpt.cli.train
import creativewritinggpt.distributed
import creativewritinggpt.evaluation.report
import creativewritinggpt.evaluation.run
import creativewritinggpt.generation.engine
import creativewritinggpt.training.run

__all__ = ["accelerate", "creativewritinggpt", "matplotlib", "peft", "transformers"]
