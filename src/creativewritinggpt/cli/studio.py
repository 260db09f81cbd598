"""``cwgpt studio``: a page on this machine to write, train, judge and explain in."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from .. import console
from ..config.fields import MachineSettings
from ..errors import InputError
from .main import add_model, add_settings, machine_settings, short_usage, whole_number

_PAGE_SECONDS = 2.5
"""Longest time that the page has to open before the model is loaded."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[flags]")
    parser.description = (
        "Open a page in the browser to write with a model, see why it chose each word, train it\n"
        "and judge it. The page is served on this machine alone and needs no network; the text is\n"
        "kept in the story file that cwgpt generate --story uses, too."
    )
    parser.epilog = (
        "examples:\n"
        "  cwgpt studio\n"
        "  cwgpt studio --story lighthouse.json --model outputs/best_model\n"
        "  cwgpt studio --port 8765 --no-browser"
    )
    parser.add_argument(
        "--story", metavar="FILE",
        help="story file to open; made where it is missing [the last one]",
    )  # fmt: skip
    add_model(parser)
    parser.add_argument("--no-browser", action="store_true",
                        help="print the address and open no browser")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                        help="address to listen on [127.0.0.1]")  # fmt: skip
    parser.add_argument(
        "--port", type=whole_number(0, 65535), default=0, metavar="N",
        help="port to listen on; 0 takes that of the last start where it is free [0]",
    )  # fmt: skip
    parser.add_argument("--allow-network", action="store_true",
                        help="allow an address that other machines reach")  # fmt: skip
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME",
                        help="name by which browsers may call the studio")  # fmt: skip
    add_settings(parser, MachineSettings)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    for package in ("starlette", "uvicorn", "websockets"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"cwgpt studio needs {package}", 'pip install "creativewritinggpt[studio]"'
            )
    from ..files import cache_folder
    from ..server.process import run_server
    from ..server.security import is_loopback
    from ..story.file import story_file
    from ..studio.access import Kept, Login, check_address
    from ..studio.app import build_app, open_browser, take_port
    from ..studio.assets import missing
    from ..studio.studio import Studio

    if missing():
        raise InputError(
            "the libraries of the studio's page are not bundled yet",
            "run: make studio-assets (or python -m creativewritinggpt.studio.assets)",
        )
    host = arguments.host
    check_address(host, arguments.allow_network)
    story = story_file(arguments.story).path if arguments.story else None
    machine = machine_settings(arguments)
    kept = Kept(cache_folder(machine.cache_dir))
    sockets = take_port(host, arguments.port, kept.port)
    port = sockets[0].getsockname()[1]
    kept.save(port)
    login = Login(port, kept.key)
    studio = Studio(Path.cwd(), story=story, model=arguments.model, machine=machine)
    own = () if is_loopback(host) else (host.lower(),)
    hosts = (*(name.lower() for name in arguments.allowed_host), *own)
    app = build_app(studio, login, hosts)

    def ready() -> None:
        sys.stdout.write(f"studio at {login.url(host)}\n")
        sys.stdout.flush()
        console.note("keep this address to yourself; Ctrl-C ends the studio")
        if not is_loopback(host):
            console.warn("other machines reach this studio: who has the address reads and writes")
        elif not arguments.no_browser:
            open_browser(login.url(host, once=True))
        studio.start(_PAGE_SECONDS)

    return run_server(app, sockets, studio.close, websockets=True, ready=ready)
