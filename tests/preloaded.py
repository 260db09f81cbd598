"""What a run imports, so that a process forked from one that has it starts at once."""

import accelerate
import matplotlib.pyplot
import peft
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama
import uvicorn.protocols.http.h11_impl
import uvicorn.protocols.websockets.websockets_sansio_impl

import creativewritinggpt.analysis.why
import creativewritinggpt.cli.evaluate
import creativewritinggpt.cli.main
import creativewritinggpt.cli.studio
import creativewritinggpt.cli.train
import creativewritinggpt.distributed
import creativewritinggpt.evaluation.report
import creativewritinggpt.evaluation.run
import creativewritinggpt.generation.engine
import creativewritinggpt.generation.style
import creativewritinggpt.models.forward.native_backend
import creativewritinggpt.models.loading
import creativewritinggpt.server.process
import creativewritinggpt.server.scheduler
import creativewritinggpt.studio.app
import creativewritinggpt.studio.figures
import creativewritinggpt.studio.library
import creativewritinggpt.studio.reasons
import creativewritinggpt.studio.run_routes
import creativewritinggpt.studio.studio
import creativewritinggpt.studio.writing
import creativewritinggpt.training.run

__all__ = ["accelerate", "creativewritinggpt", "matplotlib", "peft", "transformers", "uvicorn"]
