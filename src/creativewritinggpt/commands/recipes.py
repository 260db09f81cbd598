"""``cwgpt recipes``: the ready settings."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .. import console
from ..config import recipe_names, recipe_text
from ..errors import InputError
from ..files import write_text


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "List the recipes; show one by NAME; or copy it to FILE, edit it there and use it with\n"
        "cwgpt train --config FILE."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the recipe to show or copy")
    parser.add_argument("file", nargs="?", metavar="FILE", help="where to copy it")
    parser.add_argument("--json", action="store_true", help="print as one JSON object")


def _summary(name: str) -> str:
    return recipe_text(name).splitlines()[0].removeprefix("#").strip()


def run(arguments: argparse.Namespace) -> int:
    """List, show or copy."""
    if arguments.name is None:
        recipes = {name: _summary(name) for name in recipe_names()}
        if arguments.json:
            sys.stdout.write(json.dumps(recipes) + "\n")
        else:
            width = max(map(len, recipes))
            for name, summary in recipes.items():
                sys.stdout.write(f"{name:<{width}}  {summary}\n")
        return 0
    if arguments.name not in recipe_names():
        raise InputError(f"no recipe '{arguments.name}'", f"there are: {', '.join(recipe_names())}")
    text = recipe_text(arguments.name)
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
    console.note(f"{target} is a copy of {arguments.name}: cwgpt train --config {target}")
    return 0
