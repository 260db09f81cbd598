"""One explanation from the text to its record: choose the targets, then compute every method.

Gradients, attention, lens and occlusion are computed in fp32, in the pass that wrote the text or
would write it; random replacements in the precision of the model as it was loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..console import CountCallback, ProgressCallback, counting
from . import registry
from .methods.attention import AttentionMaps
from .predictions import predictions
from .registry import Attribution
from .report import record as records
from .select_targets import choose
from .settings import AnalysisSettings
from .subject import Subject
from .text.words import Word, words_of

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

# With more targets the base model is not explained beside the tuned one: it doubles the time.
MOST_WITH_BASE = 40


@dataclasses.dataclass
class Explanation:
    """What was found.

    Attributes:
        record: All of it, as in ``results.json``.
        subject: The text as the model reads it, with its targets.
        words: Its words.
        attention: The weights of all layers and heads, where they were asked for.
        unfinished: Methods that were interrupted or not reached.
    """

    record: dict[str, Any]
    subject: Subject
    words: list[Word]
    attention: AttentionMaps | None = None
    unfinished: list[str] = dataclasses.field(default_factory=list)


def explain(
    writer: LoadedModel,
    text: str,
    settings: AnalysisSettings | None = None,
    *,
    progress: ProgressCallback | None = None,
    warn: Callable[[str], None] | None = None,
) -> Explanation:
    """Explain what the model makes of a text.

    Args:
        writer: The model.
        text: The text.
        settings: What to explain and how.
        progress: Called as the work goes on.
        warn: Called with what the user should know; the record has it too.

    Returns:
        What was found; after Ctrl-C, what was found until then.

    Raises:
        InputError: Text or settings don't fit.
        RunError: The model computes no numbers.
    """
    settings = settings or AnalysisSettings()
    _check_drawn(writer, settings)
    analysis = Analysis(writer, text, settings, progress, warn)
    wanted = registry.in_order(settings.methods)
    left = [method.name for method in wanted]
    try:
        for method in wanted:
            method.compute(analysis)
            left.remove(method.name)
    except KeyboardInterrupt:
        analysis.record["unfinished"] = list(left)
    return Explanation(analysis.record, analysis.subject, analysis.words, analysis.maps, left)


class Analysis:
    """A running analysis: what the methods read, and where they put their results.

    Args:
        writer: The model.
        text: The text.
        settings: What to explain and how.
        progress: See :func:`explain`.
        warn: See :func:`explain`.

    Attributes:
        writer: The model in the precision that it was loaded in.
        fp32: The same model, computing in fp32.
        subject: The text with its targets.
        settings: As given.
        words: The words of the text.
        kinds: For each word what it is: name, place, dialogue, action, prompt.
        record: What becomes ``results.json``; methods add parts of their own.
        found: The tuned model's attributions by name.
        maps: Attention weights, once the method ``attention`` has them.
        base_maps: Those of the base model.
        models: ``("tuned",)``, or with the base model beside it ``("tuned", "base")``.
    """

    def __init__(
        self,
        writer: LoadedModel,
        text: str,
        settings: AnalysisSettings,
        progress: ProgressCallback | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        from .text.names import tag

        fp32 = dataclasses.replace(writer.device, precision="fp32")
        self.writer, self.fp32 = writer, dataclasses.replace(writer, device=fp32)
        self.settings, self._progress, self._warn = settings, progress, warn
        self._warnings: list[str] = []
        self.subject = choose(self.fp32, text, settings, self.warn)
        self.words = words_of(self.subject)
        self.kinds = tag(
            self.words, self.subject.text, self.subject.text[: self.subject.prompt_characters]
        )
        self.maps: AttentionMaps | None = None
        self.base_maps: AttentionMaps | None = None
        self.found: dict[str, Attribution] = {}
        wanted = writer.has_adapter and settings.base
        few = len(self.subject.targets) <= MOST_WITH_BASE
        self.models = ("tuned", "base") if wanted and few else ("tuned",)
        if wanted and not few:
            self.warn(
                f"more than {MOST_WITH_BASE} tokens are explained: attributions are of the tuned "
                "model alone"
            )
        self.record = self._begin()

    def _begin(self) -> dict[str, Any]:
        """A record of the text and the predictions, without any explanation yet."""
        record = records.begin(self.writer, self.subject, self.words, self.kinds)
        record["warnings"] = self._warnings
        record["seed"] = self.settings.seed
        record["settings"] = dataclasses.asdict(self.settings)
        record["precision"] = {
            "gradients": "fp32", "attention": "fp32", "perturbation": self.writer.device.precision,
        }  # fmt: skip
        tuned, base = predictions(self.fp32, self.subject), None
        if self.writer.has_adapter:
            with self.model("base"):
                base = predictions(self.fp32, self.subject)
        targets = records.target_records(self.writer, self.subject, self.words, tuned, base)
        record["targets"], record["target"] = targets, targets[0]
        return record

    def model(self, name: str) -> contextlib.AbstractContextManager[object]:
        """Within the block the model computes as ``tuned`` or, without its adapter, as ``base``."""
        return self.writer.base() if name == "base" else contextlib.nullcontext()

    def add(self, found: Attribution, model: str = "tuned") -> None:
        """Put an attribution into the record.

        Args:
            found: Of the analysis' subject.
            model: ``tuned`` or ``base``.
        """
        records.add_method(self.record, found, model)
        if model == "tuned":
            self.found[found.method] = found

    def warn(self, text: str) -> None:
        """Tell the user something, in the record too."""
        self._warnings.append(text)
        if self._warn is not None:
            self._warn(text)

    def progress(self, what: str, model: str = "tuned") -> CountCallback | None:
        """A callback for a computation's progress, None where nobody asks."""
        return counting(self._progress, what + (" of the base" if model == "base" else ""))


def _check_drawn(writer: LoadedModel, settings: AnalysisSettings) -> None:
    """Refuse pictures of layers or heads that the model does not have, before any computing."""
    from .plots.grids import in_range

    for noun, wanted in (("layer", settings.layers), ("head", settings.heads)):
        name = {"layer": "num_hidden_layers", "head": "num_attention_heads"}[noun]
        in_range(wanted, int(getattr(writer.bare.config, name, 0)), noun)
