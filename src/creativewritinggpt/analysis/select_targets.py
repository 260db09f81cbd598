"""Which text and which tokens are explained, from what the user asked for.

With ``write`` the model writes first, in the precision in which it will be explained, and the very
log-probabilities of that writing are checked against those of the explained pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import InputError, RunError
from ..generation.text import whole_characters
from .predictions import next_token, predictions
from .settings import AnalysisSettings
from .subject import Subject, Target, first_token, read, tokens_of, with_targets

if TYPE_CHECKING:
    from ..generation.results import Token
    from ..models.loaded_model import LoadedModel

# In nats: what two orders of the same fp32 arithmetic may differ by.
_AGREE = 1e-2


def choose(
    writer: LoadedModel, text: str, settings: AnalysisSettings, warn: Callable[[str], None]
) -> Subject:
    """The text with the tokens to be explained.

    Args:
        writer: The model, computing in fp32.
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
        subject = _written(writer, text, settings)
    else:
        subject = _given(writer, text, settings)
    if subject.view_start:
        warn(
            f"the text is longer than the model's window of {writer.window} tokens: its first "
            f"{subject.view_start:,} characters are not explained"
        )
    if subject.targets[0].position == 1 and subject.targets[-1].position == 1:
        warn("nothing but the start of the text stands before the target: it explains nothing")
    return subject


def _given(writer: LoadedModel, text: str, settings: AnalysisSettings) -> Subject:
    # A line break is a word that can be explained; blanks alone are none.
    if not text.strip() and "\n" not in text:
        raise InputError("there is nothing but blanks to explain", "give a text with words")
    subject = read(writer, text)
    foil = None
    if settings.contrast is not None:
        foil = first_token(writer.tokenizer, settings.contrast)
    if settings.target is not None:
        positions = tokens_of(subject, settings.target)
        # The foil stands against the word's first token; what follows depends on that one.
        places = positions[:1] if foil is not None else positions
        targets = [Target(place, subject.ids[place], foil) for place in places]
    elif settings.next_word is not None:
        wanted = first_token(writer.tokenizer, settings.next_word)
        targets = [Target(subject.length, wanted, foil)]
    else:
        targets = [Target(subject.length, next_token(writer, subject), foil)]
    for target in targets:
        if target.foil == target.id:
            raise InputError(
                f"the target and {settings.contrast!r} begin with the same token",
                "compare with another word",
            )
    return with_targets(subject, targets)


def _written(writer: LoadedModel, text: str, settings: AnalysisSettings) -> Subject:
    """The text and what the model writes after it, every written token a target."""
    from ..generation.engine import write
    from ..generation.sampling.presets import settings_for

    count = settings.write or 1
    if count >= writer.window // 2:
        raise InputError(
            f"--write {count} is more than half of the model's window of {writer.window} tokens",
            f"write at most {writer.window // 2 - 1}",
        )
    on_processor = writer.device.torch_device.type == "cpu"
    wanted = {
        "max_new_tokens": count,
        "seed": settings.seed,
        "weights": "fp32" if on_processor else "transformers",
    }
    prompt = read(writer, text, room=count + 1)
    seen = text[prompt.view_start :]
    made = write(writer, seen, settings_for(settings.preset, wanted))[0]
    if not made.tokens:
        raise RunError("the model ended the text at once", "try another seed or a longer text")
    ids = (*prompt.ids, *(token.id for token in made.tokens))
    subject = dataclasses.replace(
        prompt,
        text=text + made.text,
        ids=ids,
        spans=(*prompt.spans, *_spans(made.tokens, len(text), len(text) + len(made.text))),
        prompt_characters=len(text),
    )
    start = len(prompt.ids)
    targets = [Target(start + index, token.id) for index, token in enumerate(made.tokens)]
    subject = with_targets(subject, targets)
    for token, found in zip(made.tokens, predictions(writer, subject, 1), strict=True):
        if abs(token.logprob - found.log_probability) > _AGREE:
            raise RunError(
                "the explained pass is not the one that wrote: log-probabilities differ by "
                f"{abs(token.logprob - found.log_probability):.3f} nats"
            )
    return subject


def _spans(tokens: Sequence[Token], start: int, end: int) -> list[tuple[int, int]]:
    """The characters of the text that each written token stands for.

    Tokens that are parts of one character all have that character's span.
    """
    spans: list[tuple[int, int]] = []
    content = b""
    whole = start
    open_from = 0
    for index, token in enumerate(tokens):
        content += token.bytes
        try:
            count = len(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            if error.end < len(content) or index - open_from > 4:
                count = len(content.decode("utf-8", "replace"))
            else:
                spans.append((whole, whole))
                continue
        last = min(whole + count, end)
        spans[open_from:] = [(whole, last)] * (index + 1 - open_from)
        whole, content, open_from = last, b"", index + 1
    spans[open_from:] = [(whole, end)] * (len(tokens) - open_from)
    return spans
