"""The sources that are known by name: the four, the sample, and the user's own.

A custom source is a function that yields documents. It is registered by a decorator, in the same
process, or by an entry point of the group ``creativewritinggpt.sources`` in an installed package::

    @register_source("mine")
    def mine(config):
        for number, text in enumerate(texts):
            yield Document("mine", group=str(number), text=text)
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib.metadata import entry_points
from typing import TypeVar

from ...config.run import SOURCES, Config
from ...errors import InputError
from ..cleaning import clean
from ..document import Document
from ..readers.tables import Reading
from .base import NamedSource, Source

_GROUP = "creativewritinggpt.sources"

CustomSource = Callable[[Config], Iterable[Document]]
"""A function that yields documents; it is called with the run's settings."""

Function = TypeVar("Function", bound=CustomSource)

_registered: dict[str, CustomSource] = {}


@functools.cache
def named_sources() -> dict[str, NamedSource]:
    """The named sources, by name."""
    from . import openwebtext, rocstories, wikitext, writingprompts

    modules = (writingprompts, rocstories, wikitext, openwebtext)
    return {module.SOURCE.name: module.SOURCE for module in modules}


def register_source(name: str) -> Callable[[Function], Function]:
    """Make a function that yields documents a source, to be used as ``--sources NAME``.

    Args:
        name: The name of the source and of its domain.

    Raises:
        InputError: The name belongs to one of the built-in sources.
    """
    if name == "sample" or name in SOURCES:
        raise InputError(f"'{name}' is the name of a built-in source", "choose another name")

    def register(function: Function) -> Function:
        _registered[name] = function
        return function

    return register


def _custom(name: str) -> CustomSource | None:
    if name in _registered:
        return _registered[name]
    for point in entry_points(group=_GROUP):
        if point.name == name:
            try:
                loaded: CustomSource = point.load()
            except Exception as error:
                raise InputError(
                    f"the source '{name}' of {point.value} can't be loaded: {error}",
                    "mend or remove the package that provides it",
                ) from error
            return loaded
    return None


def source_names() -> list[str]:
    """Every name that ``--sources`` takes."""
    points = (point.name for point in entry_points(group=_GROUP))
    return list(dict.fromkeys([*SOURCES, "sample", *_registered, *points]))


def open_named(name: str, config: Config) -> list[Source]:
    """The sources behind a name in ``--sources``.

    Raises:
        InputError: Nothing is known by that name.
        RunError: The hub can't be reached.
    """
    from .hub import open_hub
    from .sample import open_sample

    if name == "sample":
        return open_sample(config)
    if name in named_sources():
        return [open_hub(named_sources()[name], config)]
    custom = _custom(name)
    if custom is None:
        near = difflib.get_close_matches(name, source_names(), n=1)
        raise InputError(
            f"no source '{name}'",
            f"did you mean '{near[0]}'?" if near else f"known: {', '.join(source_names())}",
        )
    return [Source(name, None, functools.partial(_read_custom, name, custom, config))]


def _read_custom(
    name: str, custom: CustomSource, config: Config, reading: Reading
) -> Iterator[Document]:
    """The documents of a custom source, checked and cleaned of what no text should hold."""
    reading.report.understood("a custom source")
    reading.report.origin = {"function": f"{custom.__module__}.{custom.__name__}"}
    for document in custom(config):
        if not isinstance(document, Document):
            raise InputError(
                f"the source '{name}' yields {type(document).__name__} instead of Document",
                "yield creativewritinggpt.data.document.Document(source, group, text)",
            )
        text, prompt = clean(document.text), clean(document.prompt or "")
        if text:
            yield replace(document, source=name, text=text, prompt=prompt or None)
        else:
            reading.report.drop("documents without text")
