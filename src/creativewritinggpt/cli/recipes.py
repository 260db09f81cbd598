"""``cwgpt recipes``: files of settings that come with the package."""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from pathlib import Path

from .. import console
from ..config.run import recipe_names, recipe_text
from ..errors import InputError
from ..files import parse_yaml, write_text
from .main import add_json

LAUNCH = "launch-"
"""Prefix of the names of the Accelerate configs."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "List the recipes, show one (NAME), or copy it to FILE for editing; use the copy with\n"
        "cwgpt train --config FILE. The launch-… ones are for several GPUs or machines, with\n"
        "accelerate launch --config_file FILE (docs/scaling.md)."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="recipe to show or copy")
    parser.add_argument("file", nargs="?", metavar="FILE", help="file to copy it to")
    add_json(parser)


def launch_names() -> list[str]:
    """Names of the Accelerate configs that come with the package."""
    folder = resources.files("creativewritinggpt") / "launch"
    return sorted(LAUNCH + entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def _text(name: str) -> str:
    if name in launch_names():
        file = f"{name.removeprefix(LAUNCH)}.yaml"
        return (resources.files("creativewritinggpt") / "launch" / file).read_text("utf-8")
    return recipe_text(name)


def _summary(name: str) -> str:
    return _text(name).splitlines()[0].removeprefix("#").strip()


def run(arguments: argparse.Namespace) -> int:
    """List, show or copy."""
    names = recipe_names() + launch_names()
    if arguments.name is None:
        recipes = {name: _summary(name) for name in names}
        if arguments.json:
            console.print_json(recipes)
        else:
            sys.stdout.write(console.columns(recipes.items()))
        return 0
    if arguments.name not in names:
        raise InputError(f"no recipe '{arguments.name}'", f"there are: {', '.join(names)}")
    text = _text(arguments.name)
    if arguments.file is None:
        if arguments.json:
            settings = parse_yaml(text, arguments.name)
            console.print_json({"name": arguments.name, "settings": settings})
        else:
            sys.stdout.write(text)
        return 0
    target = Path(arguments.file)
    if target.exists():
        raise InputError(f"{target} exists", "choose another name; nothing was overwritten")
    write_text(target, text)
    if arguments.json:
        console.print_json({"name": arguments.name, "file": str(target)})
    use = "cwgpt train --config"
    if arguments.name in launch_names():
        use = "accelerate launch --config_file"
    console.note(f"{target} is a copy of {arguments.name}: {use} {target}")
    return 0
