"""The models that are judged beside each other, one loaded at a time.

A tuned model and its base are usually one model with its adapter on or off; other models are loaded
when their turn comes and let go after it, so that any number of them can be compared on a machine
that holds one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..errors import InputError
from ..models.loaded_model import LoadedModel

BASE, TUNED = "base", "tuned"


@dataclasses.dataclass(frozen=True)
class Contender:
    """One model under judgement.

    Attributes:
        label: What it is called in the results: ``base``, ``tuned`` or the name it was given by.
        about: Name, adapter and revision, for the report.
        open: Gives the writer, ready to be used within the block.
    """

    label: str
    about: dict[str, Any]
    open: Callable[[], AbstractContextManager[LoadedModel]]


def base_and_tuned(writer: LoadedModel, base: LoadedModel | None = None) -> list[Contender]:
    """A model and the base it was tuned from, or the model alone where it is one.

    Args:
        writer: The model; its adapter is switched off for the base's turn.
        base: The base of a fully fine-tuned model, which has no adapter to switch off.
    """

    @contextlib.contextmanager
    def adapter_off() -> Iterator[LoadedModel]:
        with writer.base():
            yield writer

    about_base = {"role": BASE, "name": writer.base_name, "revision": writer.revision}
    about_tuned = {"role": TUNED, "name": writer.name, "adapter": writer.adapter}
    tuned = Contender(TUNED, about_tuned, lambda: contextlib.nullcontext(writer))
    if writer.has_adapter:
        return [Contender(BASE, about_base, adapter_off), tuned]
    if base is not None:
        return [Contender(BASE, about_base, lambda: contextlib.nullcontext(base)), tuned]
    return [Contender(BASE, about_base, lambda: contextlib.nullcontext(writer))]


def named(names: Sequence[str], load: Callable[[str], LoadedModel]) -> list[Contender]:
    """Models by name, each loaded for its turn only.

    Raises:
        InputError: A name that is given twice.
    """
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice", "name each model once")

    def opened(name: str) -> Callable[[], AbstractContextManager[LoadedModel]]:
        @contextlib.contextmanager
        def loaded() -> Iterator[LoadedModel]:
            yield load(name)

        return loaded

    return [Contender(name, {"role": name, "name": name}, opened(name)) for name in names]
