"""One explanation from the text to its record: choose the targets, then compute every method.

Gradients, attention, lens and occlusion are computed in fp32, in the pass that wrote the text or
would write it: with ``write`` the model writes first, in the precision in which it is explained,
and the log-probabilities of that writing are checked against those of the explained pass. Random
replacements are computed in the precision of the model as it was loaded.

The short answer, by one method in a few seconds, is :mod:`.why`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from ..console import ProgressCallback
from ..errors import InputError, RunError
from ..generation.text import spans_of, whole_characters
from . import record as records
from . import registry
from .forward import next_token, predictions
from .methods.attention import AttentionMaps
from .registry import Analysis, AnalysisSettings
from .subject import (
    Subject,
    Target,
    Word,
    first_token,
    read,
    tokens_of,
    with_targets,
    words_of,
)

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

# With more targets the base model is not explained beside the tuned one: it doubles the time.
MOST_WITH_BASE = 40
# In nats: what two orders of the same fp32 arithmetic may differ by.
_AGREE = 1e-2


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
    model: LoadedModel,
    text: str,
    settings: AnalysisSettings | None = None,
    *,
    parts: Sequence[tuple[str, int, int]] = (),
    progress: ProgressCallback | None = None,
    warn: Callable[[str], None] | None = None,
    first: Callable[[dict[str, Any]], None] | None = None,
) -> Explanation:
    """Explain what the model makes of a text.

    Args:
        model: The model.
        text: The text.
        settings: What to explain and how.
        parts: Stretches of the text with a name: name, first character, end.
        progress: Called as the work goes on.
        warn: Called with what the user should know; the record has it too.
        first: Called with the record when the quick methods are done and slower ones are left.

    Returns:
        What was found; after Ctrl-C, what was found until then.

    Raises:
        InputError: Text or settings don't fit.
        RunError: The model computes no numbers.
    """
    steps = explaining(
        model, text, settings, parts=parts, progress=progress, warn=warn, first=first
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Explanation = end.value
            return found


def explaining(
    model: LoadedModel,
    text: str,
    settings: AnalysisSettings | None = None,
    *,
    parts: Sequence[tuple[str, int, int]] = (),
    progress: ProgressCallback | None = None,
    warn: Callable[[str], None] | None = None,
    first: Callable[[dict[str, Any]], None] | None = None,
) -> Generator[None, None, Explanation]:
    """The same as :func:`explain`, a method at a time, for who shares the model."""
    settings = settings or AnalysisSettings()
    _check_drawn(model, settings)
    analysis = _begin(model, text, settings, progress, warn)
    if parts:
        analysis.record["parts"] = [
            {"name": name, "char_span": [start, end]} for name, start, end in parts
        ]
    wanted = registry.in_order(settings.methods)
    left = [method.name for method in wanted]
    try:
        for method in wanted:
            method.compute(analysis)
            left.remove(method.name)
            slower = [other for other in wanted if other.name in left]
            if first is not None and method.quick and slower and not slower[0].quick:
                first(analysis.record)
            yield
    except KeyboardInterrupt:
        analysis.record["unfinished"] = list(left)
    return Explanation(analysis.record, analysis.subject, analysis.words, analysis.maps, left)


def _begin(
    model: LoadedModel,
    text: str,
    settings: AnalysisSettings,
    progress: ProgressCallback | None,
    warn: Callable[[str], None] | None,
) -> Analysis:
    """An analysis of the text and the predictions, without any explanation yet."""
    from ..data.names import tag

    fp32 = model.in_precision("fp32")
    warnings: list[str] = []

    def say(text: str) -> None:
        warnings.append(text)
        if warn is not None:
            warn(text)

    subject = select_targets(fp32, text, settings, say)
    words = words_of(subject)
    kinds = tag(words, subject.text, subject.text[: subject.prompt_characters])
    wanted = model.has_adapter and settings.base
    with_base = wanted and len(subject.targets) <= MOST_WITH_BASE
    if wanted and not with_base:
        say(
            f"more than {MOST_WITH_BASE} tokens are explained: attributions are of the tuned "
            "model alone"
        )
    tuned, base = predictions(fp32, subject), None
    if model.has_adapter:
        with model.base():
            base = predictions(fp32, subject)
    targets = records.target_records(model, subject, words, tuned, base)
    record = records.begin(model, subject, words, kinds) | {
        "warnings": warnings,
        "seed": settings.seed,
        "settings": dataclasses.asdict(settings),
        "precision": {
            "gradients": "fp32", "attention": "fp32", "perturbation": model.device.precision,
        },
        "targets": targets,
        "target": targets[0],
    }  # fmt: skip
    models = ("tuned", "base") if with_base else ("tuned",)
    return Analysis(model, fp32, subject, settings, words, kinds, models, record, say, progress)


def _check_drawn(model: LoadedModel, settings: AnalysisSettings) -> None:
    """Refuse pictures of layers or heads that the model does not have, before any computing."""
    from .attention_plots import in_range

    for noun, wanted in (("layer", settings.layers), ("head", settings.heads)):
        name = {"layer": "num_hidden_layers", "head": "num_attention_heads"}[noun]
        in_range(wanted, int(getattr(model.bare.config, name, 0)), noun)


def select_targets(
    model: LoadedModel, text: str, settings: AnalysisSettings, warn: Callable[[str], None]
) -> Subject:
    """The text with the tokens to be explained.

    Args:
        model: The model, computing in fp32.
        text: What the user gave.
        settings: What is asked for.
        warn: Told what the user should know.

    Raises:
        InputError: There is no text, or the word asked for is not in it.
        RunError: The model writes nothing, or computes no numbers.
    """
    if not text:
        raise InputError("there is no text to explain", 'give one, as cwgpt analyze "The door"')
    text = whole_characters(text)
    if settings.write is not None:
        subject = _written(model, text, settings)
    else:
        subject = _given(model, text, settings)
    if subject.view_start:
        warn(
            f"the text is longer than the model's window of {model.context_length} tokens: its "
            f"first {subject.view_start:,} characters are not explained"
        )
    if subject.targets[0].position == 1 and subject.targets[-1].position == 1:
        warn("nothing but the start of the text stands before the target: it explains nothing")
    return subject


def _given(model: LoadedModel, text: str, settings: AnalysisSettings) -> Subject:
    # A line break is a word that can be explained; blanks alone are none.
    if not text.strip() and "\n" not in text:
        raise InputError("there is nothing but blanks to explain", "give a text with words")
    subject = read(model, text)
    foil = None
    if settings.contrast is not None:
        foil = first_token(model.tokenizer, settings.contrast)
    if settings.target is not None:
        positions = tokens_of(subject, settings.target)
        # The foil stands against the word's first token; what follows depends on that one.
        places = positions[:1] if foil is not None else positions
        targets = [Target(place, subject.ids[place], foil) for place in places]
    elif settings.next_word is not None:
        wanted = first_token(model.tokenizer, settings.next_word)
        targets = [Target(subject.length, wanted, foil)]
    else:
        targets = [Target(subject.length, next_token(model, subject), foil)]
    for target in targets:
        if target.foil == target.id:
            raise InputError(
                f"the target and {settings.contrast!r} begin with the same token",
                "compare with another word",
            )
    return with_targets(subject, targets)


def _written(model: LoadedModel, text: str, settings: AnalysisSettings) -> Subject:
    """The text and what the model writes after it, every written token a target."""
    from ..generation.engine import write
    from ..generation.sampling.settings import settings_for

    count = settings.write or 1
    if count >= model.context_length // 2:
        raise InputError(
            f"--write {count} is more than half of the model's window of {model.context_length} "
            "tokens",
            f"write at most {model.context_length // 2 - 1}",
        )
    on_processor = model.device.torch_device.type == "cpu"
    wanted = {
        "max_new_tokens": count,
        "seed": settings.seed,
        "weights": "fp32" if on_processor else "transformers",
    }
    prompt = read(model, text, room=count + 1)
    seen = text[prompt.view_start :]
    made = write(model, seen, settings_for(settings.preset, wanted))[0]
    if not made.tokens:
        raise RunError("the model ended the text at once", "try another seed or a longer text")
    ids = (*prompt.ids, *(token.id for token in made.tokens))
    subject = dataclasses.replace(
        prompt,
        text=text + made.text,
        ids=ids,
        spans=(
            *prompt.spans,
            *spans_of(
                [token.bytes for token in made.tokens], len(text), len(text) + len(made.text)
            ),
        ),
        prompt_characters=len(text),
    )
    start = len(prompt.ids)
    targets = [Target(start + index, token.id) for index, token in enumerate(made.tokens)]
    subject = with_targets(subject, targets)
    for token, found in zip(made.tokens, predictions(model, subject, 1), strict=True):
        if abs(token.logprob - found.log_probability) > _AGREE:
            raise RunError(
                "the explained pass is not the one that wrote: log-probabilities differ by "
                f"{abs(token.logprob - found.log_probability):.3f} nats"
            )
    return subject
