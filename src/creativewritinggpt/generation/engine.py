"""The ways into the decoding engine: one text, alternatives, many requests, whole or as a stream.

All requests of a call share a batch (see :mod:`.decoder`), so that the weights are read once per
step.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from .. import console
from ..errors import Stopped
from ..models.forward.backends import backend_for
from .decoder import Decoder, Request, Warn
from .results import Generated, Piece, Scores, best
from .sampling.settings import GenerationSettings, seeds_from

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel


class Interrupted(Stopped):
    """The user stopped the writing; ``results`` holds what was written."""

    def __init__(self, results: list[Generated]) -> None:
        super().__init__("stopped")
        self.results = results


def write(
    model: LoadedModel,
    prompt: str,
    settings: GenerationSettings | None = None,
    n: int = 1,
    *,
    memory: str = "",
    note: str = "",
    alternatives: int = 0,
    warn: Warn = console.warn,
    taste: Scores | None = None,
) -> list[Generated]:
    """Write ``n`` continuations of ``prompt``.

    Args:
        model: The model.
        prompt: The text so far; empty starts a new text.
        settings: Generation settings; alternative ``i`` has the seed ``settings.seed + i``.
        n: Number of texts; with ``settings.best_of`` the best ``n`` of so many, best first.
        memory: Text pinned to the front of the model's view.
        note: Text pinned a few paragraphs before its end.
        alternatives: Number of alternatives to record per token, before and after the samplers.
        warn: Called with what the user should know.
        taste: Scores of drafts, for ``rank_by`` of ``taste``.

    Raises:
        Interrupted: Ctrl-C; carries what was written.
        InputError: The settings don't fit the model.
        RunError: The model's output is not a number.
    """
    settings = settings or GenerationSettings()
    count = max(n, settings.best_of or n)
    requests = [Request(prompt, seed, memory, note) for seed in seeds_from(settings.seed, count)]
    results = write_all(model, requests, settings, alternatives=alternatives, warn=warn)
    return best(results, n, settings.rank_by, taste) if settings.best_of else results


def write_all(
    model: LoadedModel,
    requests: Sequence[Request],
    settings: GenerationSettings,
    *,
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> list[Generated]:
    """Write all of ``requests``, in their order; see :func:`write`."""
    results = collect(compose(model, requests, settings, alternatives=alternatives, warn=warn))
    if any(result.finish_reason == "interrupted" for result in results):
        raise Interrupted(results)
    return results


def stream(
    model: LoadedModel,
    prompt: str,
    settings: GenerationSettings | None = None,
    n: int = 1,
    *,
    memory: str = "",
    note: str = "",
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> Generator[Piece, None, None]:
    """Write like :func:`write`, yielding each new piece of text once it is settled.

    The last piece of each alternative carries the whole text as ``result``. Ctrl-C ends the writing
    with one more piece for each unfinished alternative. Closing the iterator stops it.
    """
    settings = settings or GenerationSettings()
    requests = [Request(prompt, seed, memory, note) for seed in seeds_from(settings.seed, n)]
    yield from compose(model, requests, settings, alternatives=alternatives, warn=warn)


def compose(
    model: LoadedModel,
    requests: Sequence[Request],
    settings: GenerationSettings,
    *,
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> Generator[Piece, None, None]:
    """Write all of ``requests``, up to :data:`.decoder.MOST_ROWS` at once, yielding pieces of text.

    A ``KeyboardInterrupt``, also one thrown into the generator, ends the writing with one more
    piece for each request that was begun.
    """
    backend = backend_for(model, settings.weights)
    decoder = Decoder(model, backend, warn=warn, whole_prompts=True)
    chain = decoder.chain(settings)
    pieces: collections.deque[Piece] = collections.deque()
    try:
        for index, request in enumerate(requests):
            decoder.add(index, request, settings, chain, alternatives=alternatives)
        while pieces or decoder.writings:
            if not pieces:
                pieces.extend(piece for _, piece in decoder.advance())
            if pieces:
                yield pieces.popleft()
    except KeyboardInterrupt:
        begun = [writing for writing in decoder.writings if writing.begun]
        yield from pieces
        yield from (piece for writing, piece in decoder.interrupt() if writing in begun)


def collect(
    pieces: Generator[Piece, None, None],
    *,
    show: Callable[[Piece], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> list[Generated]:
    """The whole texts of :func:`compose` or :func:`stream`, in the order of their requests.

    Args:
        pieces: The generator.
        show: Called with each piece.
        stopped: Asked after each piece; True ends the writing as Ctrl-C does.
    """
    results: dict[int, Generated] = {}
    asked = False
    piece = next(pieces, None)
    while piece is not None:
        try:
            if show is not None:
                show(piece)
            if piece.result is not None:
                results[piece.index] = piece.result
            if stopped is not None and not asked and stopped():
                asked = True
                piece = _interrupt(pieces)
            else:
                piece = next(pieces, None)
        except KeyboardInterrupt:  # it came between two steps of the engine
            piece = _interrupt(pieces)
    return [results[index] for index in sorted(results)]


def _interrupt(pieces: Generator[Piece, None, None]) -> Piece | None:
    try:
        return pieces.throw(KeyboardInterrupt())
    except StopIteration:
        return None
