"""Writing on: the engine's pieces onto the screen, and what came of them into the story."""

from __future__ import annotations

import codecs
import secrets
from collections.abc import Generator, Sequence

from ..generation.results import Generated, Piece, Token
from ..generation.sampling.settings import seeds_from
from ..story.context import StoryView, passage_tokens, story_view
from ..story.tree import Passage, Setup
from .session import Session

# Alternatives that are recorded for every token, so that /probs can answer at once.
ALTERNATIVES = 6


def go_on(
    session: Session, parent: int | None = None, *, seed: int | None = None, did: str = ""
) -> Passage | None:
    """Let the model write the next passage, and take it into the story.

    Args:
        session: The session.
        parent: The passage before it; without it the last one.
        seed: Of its random numbers; without it that of the settings, or a new one.
        did: What to call the operation.

    Returns:
        The passage, or None where the model wrote nothing.
    """
    [(passage, generated)] = write(session, parent, [_seed(session, seed)], show=True)
    session.screen.end_flow()
    if generated is not None and generated.finish_reason == "stop" and not session.settings.stop:
        session.screen.note("the model ends the text here")
    if passage is None:
        return None
    session.story.go(passage.id, did or "a passage by the model")
    return passage


def several(session: Session, count: int) -> None:
    """Let the model write ``count`` alternatives and offer them; they join the tree, not the text.

    All are written at once, and the first is shown as it comes.
    """
    first = _seed(session, None)
    session.screen.note(f"writing {count} alternatives")
    session.head(1, f"seed {first}")
    written = write(session, None, seeds_from(first, count), show=True)
    found = [passage for passage, _ in written if passage is not None]
    shown = int(written[0][0] is not None)
    session.offer([p.id for p in found], [f"seed {p.seed}" for p in found], shown)


def write(
    session: Session, parent: int | None, seeds: Sequence[int], *, show: bool = False,
    adapters: bool = True,
) -> list[tuple[Passage | None, Generated | None]]:  # fmt: skip
    """Write one passage for each seed after ``parent`` and add them to the tree.

    Ctrl-C ends them early, and what is there counts.

    Args:
        session: The session.
        parent: The passage before them; without it the last one.
        seeds: One for each.
        show: Show the first text as it comes.
        adapters: Whether the adapters work; recorded with the passages.
    """
    voice = session.voice
    from ..generation import engine

    seen = story_view(voice.writer, session.story, parent)
    settings = session.settings
    if settings.best_of and len(seeds) == 1:
        seeds, show = seeds_from(seeds[0], settings.best_of), False
        session.screen.note(f"writing {settings.best_of}, of which the best is kept")
    requests = [engine.Request(seen.prompt, seed, seen.memory, seen.note) for seed in seeds]
    with session.signals.writing():
        pieces = engine.compose(
            voice.writer, requests, settings, alternatives=ALTERNATIVES, warn=session.screen.note
        )
        results = _collect(session, pieces, show=show)
    if not results:
        return [(None, None)]
    if len(requests) > 1 and settings.best_of == len(requests):
        from ..generation.results import best

        results = best(results, 1, settings.rank_by)
        session.screen.flow(results[0].text)
    session.last_seed = results[-1].seed
    session.tokens_per_second = sum(result.tokens_per_second for result in results)
    setup = _setup(session, seen, voice.adapters if adapters else {})
    return [(_keep(session, parent, result, setup, seen.start), result) for result in results]


def _collect(
    session: Session, pieces: Generator[Piece, None, None], *, show: bool
) -> list[Generated]:
    """Run the engine to its end, or to Ctrl-C."""
    results: dict[int, Generated] = {}
    asked = False
    piece = next(pieces, None)
    while piece is not None:
        if show and piece.index == 0:
            session.screen.flow(_whole(piece.text) if piece.result else piece.text)
        if piece.result is not None:
            results[piece.index] = piece.result
        if (session.signals.stop or session.screen.gone) and not asked:
            # Between two tokens: the engine hands out what there is.
            asked = True
            try:
                piece = pieces.throw(KeyboardInterrupt())
            except StopIteration:
                break
        else:
            piece = next(pieces, None)
    return [results[index] for index in sorted(results)]


def _setup(session: Session, seen: StoryView, adapters: dict[str, float]) -> Setup:
    from ..models.forward.backends import backend_for

    settings = session.settings.to_dict()
    settings.pop("seed")
    # What "auto" means can change with the machine and what is installed; the text with it.
    settings["weights"] = backend_for(session.writer, session.settings.weights).name
    return Setup(
        session.writer.name, dict(adapters), session.preset_name, settings, seen.memory, seen.note
    )


def _keep(
    session: Session, parent: int | None, result: Generated, setup: Setup, start: int
) -> Passage | None:
    text = _whole(result.text)
    if not text:
        return None
    passage = session.story.offer(
        text, parent, by="model", setup=setup, seed=result.seed, start=start
    )
    session.tokens[passage.id] = result.tokens
    return passage


def _whole(text: str) -> str:
    """A text without the character in whose middle it was stopped."""
    return text.rstrip("\ufffd")


def _seed(session: Session, seed: int | None) -> int:
    if seed is None:
        seed = session.settings.seed
    return new_seed() if seed is None else seed


def new_seed() -> int:
    """A seed that nobody chose, short enough to be typed again."""
    return secrets.randbelow(1_000_000)


def record_of(session: Session, passage: Passage) -> list[Token]:
    """How likely each token of a passage was: as it was recorded, or as the model finds it now."""
    if passage.id not in session.tokens:
        session.tokens[passage.id] = passage_tokens(
            session.writer, session.story, passage, session.settings.weights, ALTERNATIVES
        )
    return session.tokens[passage.id]


def shown_tokens(tokens: Sequence[Token]) -> list[tuple[str, Token]]:
    """The text that each token completes; characters that are split count to their last token."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [(decoder.decode(token.bytes), token) for token in tokens]
