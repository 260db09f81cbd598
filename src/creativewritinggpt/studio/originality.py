"""Which runs of words of a text stand in the training text of a model: a child of the studio.

``python -m creativewritinggpt.studio.originality TEXT MODEL [CACHE]`` prints one JSON object. The
index of a large corpus is a long computation, so that it is made apart from the page's server.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import console
from ..config.run import Config
from ..errors import InputError, UserError


def search(text: str, model: str, cache_dir: str | None = None) -> dict[str, Any]:
    """The runs of eight words or more that a text shares with the training text.

    Args:
        text: The text.
        model: Folder of a tuned model, whose ``run.json`` names its training text.
        cache_dir: Where indexes are kept.

    Returns:
        ``runs`` with their offsets in characters, ``words``, ``longest_run`` and
        ``share_of_8grams``.

    Raises:
        InputError: The training text can't be had.
    """
    from ..evaluation.material import training_index
    from ..evaluation.originality import check, shared_runs

    index, why = training_index(model, Config(cache_dir=cache_dir))
    if index is None:
        raise InputError(
            f"originality can't be measured: {why}", "choose a model that was trained here"
        )
    whole = check(index, text)
    figures = {name: whole[name] for name in ("words", "longest_run", "share_of_8grams")}
    return {
        **figures,
        "runs": shared_runs(index, text),
        "documents": len(index.documents),
    }


def main(words: Sequence[str]) -> int:
    """Search and print; returns the exit code."""
    text, model, *rest = words
    try:
        found = search(Path(text).read_text("utf-8"), model, rest[0] if rest else None)
    except UserError as error:
        console.note("\n".join(filter(None, [f"error: {error.message}", error.advice])))
        return error.exit_code
    console.print_json(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
