"""``cwgpt recipes``: the ready settings."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import resources
from pathlib import Path

from .. import console
from ..config.run import recipe_names, recipe_text
from ..errors import InputError
from ..files import write_text

LAUNCH = "launch-"
"""What the names of the Accelerate configs begin with."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "List the recipes; show one by NAME; or copy it to FILE, edit it there and use it with\n"
        "cwgpt train --config FILE. The launch-… ones train on several GPUs or machines, with\n"
        "accelerate launch --config_file FILE (docs/scaling.md)."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the recipe to show or copy")
    parser.add_argument("file", nargs="?", metavar="FILE", help="where to copy it")
    parser.add_argument("--json", action="store_true", help="print as one JSON object")


def launch_names() -> list[str]:
    """The Accelerate configs that come with the package."""
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
            sys.stdout.write(json.dumps(recipes) + "\n")
        else:
            width = max(map(len, recipes))
            for name, summary in recipes.items():
                sys.stdout.write(f"{name:<{width}}  {summary}\n")
        return 0
    if arguments.name not in names:
        raise InputError(f"no recipe '{arguments.name}'", f"there are: {', '.join(names)}")
    text = _text(arguments.name)
    if arguments.file is None:
        if arguments.json:
            import yaml

            text = json.dumps({"name": arguments.name, "settings": yaml.safe_load(text)}) + "\n"
        sys.stdout.write(text)
        return 0
    target = Path(arguments.file)
    if target.exists():
        raise InputError(f"{target} exists", "choose another name; nothing was overwritten")
    write_text(target, text)
    if arguments.json:
        sys.stdout.write(json.dumps({"name": arguments.name, "file": str(target)}) + "\n")
    use = "cwgpt train --config"
    if arguments.name in launch_names():
        use = "accelerate launch --config_file"
    console.note(f"{target} is a copy of {arguments.name}: {use} {target}")
    return 0
