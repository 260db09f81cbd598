"""The sources that are known by name."""

from __future__ import annotations

import functools

from ...config import Config
from ...errors import InputError
from .base import NamedSource, Source


@functools.cache
def named_sources() -> dict[str, NamedSource]:
    """The named sources, by name."""
    from . import wikitext

    return {source.name: source for source in (wikitext.SOURCE,)}


def open_named(name: str, config: Config) -> list[Source]:
    """The sources behind a name in ``--sources``.

    Raises:
        InputError: Nothing is known by that name.
    """
    from .sample import open_sample

    if name == "sample":
        return open_sample(config)
    raise InputError(f"no source '{name}'", "known: sample")
