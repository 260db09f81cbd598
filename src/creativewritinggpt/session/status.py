"""The line below the prompt: what a writer wants to know, as much of it as the width allows."""

from __future__ import annotations

from pathlib import Path

from ..console import counted
from ..errors import UserError
from .session import Session


def status(session: Session, width: int = 1000) -> str:
    """One line: model, preset, seed, how full the window is, tokens per second, words, file.

    Args:
        session: The session.
        width: Columns that there are; what matters least is left out first.
    """
    name = "/".join(Path(session.model).parts[-2:])
    # Each with how much it matters; what goes wrong matters most.
    parts = [(4, name if session.ready else f"loading {name}")]
    if session.ready:
        weights = [weight for weight in session.voice.adapters.values() if weight != 1]
        parts += [(4, f"style {weight:g}") for weight in weights]
    parts += [(3, f"preset {session.preset_name}")] if session.preset_name else []
    if session.settings.seed is not None:
        parts.append((3, f"seed {session.settings.seed}"))
    else:
        last = session.last_seed
        parts.append((2, "new seeds" if last is None else f"last seed {last}"))
    if session.ready:
        try:
            seen = session.seen()
            parts.append((5, f"window {seen.fill:.0%} of {seen.context_length:,}"))
        except UserError:
            parts.append((5, "window over-full: shorten memory or note"))
    if session.tokens_per_second:
        parts.append((1, f"{session.tokens_per_second:.0f} tokens/s"))
    parts.append((1, counted(session.words, "word")))
    parts.append((6, "NOT SAVED") if session.unsaved else (0, session.file.path.name))
    whole = fitted(parts, 10_000)
    if fitted(parts, width) == whole:
        return whole
    # The size of the window is known after a while, and goes before anything else.
    return fitted([(weight, text.partition(" of ")[0]) for weight, text in parts], width)


def fitted(parts: list[tuple[int, str]], width: int) -> str:
    """Join what fits into a line: the parts that matter least are left out first."""
    from rich.cells import cell_len

    while True:
        line = " · ".join(text for _, text in parts)
        if cell_len(line) <= width or len(parts) < 2:
            return line
        least = min(weight for weight, _ in parts)
        last = max(place for place, (weight, _) in enumerate(parts) if weight == least)
        del parts[last]
