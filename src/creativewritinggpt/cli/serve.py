"""``cwgpt serve``: the OpenAI and KoboldAI protocols on loopback."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from ..config.fields import MachineSettings
from ..errors import InputError
from ..generation.sampling.settings import GenerationSettings
from .main import add_model, add_settings, machine_settings, short_usage, whole_number

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel
    from ..server.scheduler import ServedModel

KEY_VARIABLE = "CWGPT_API_KEY"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[flags]")
    parser.description = (
        "Serve a model to programs that speak OpenAI's protocol (completions, chat) or\n"
        "KoboldAI's, many requests at once. It listens on this machine alone, unless told."
    )
    parser.epilog = (
        "examples:\n"
        "  cwgpt serve --model starter\n"
        "  cwgpt serve --model starter --adapter noir=styles/noir --adapter fable=styles/fable\n"
        "  cwgpt serve --host 0.0.0.0 --allow-network --api-key-file key.txt"
    )
    add_model(parser)
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=FOLDER",
        help="serve the model with this adapter, too, as the model NAME",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                        help="address to listen on [127.0.0.1]")  # fmt: skip
    parser.add_argument("--port", type=whole_number(0, 65535), default=8000, metavar="N",
                        help="port to listen on; 0 takes a free one [8000]")  # fmt: skip
    parser.add_argument("--allow-network", action="store_true",
                        help="allow an address that other machines reach; needs a key")  # fmt: skip
    parser.add_argument(
        "--api-key-file", metavar="FILE",
        help=f"file of API keys, one a line; {KEY_VARIABLE} in the environment is one, too",
    )  # fmt: skip
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME",
                        help="name by which clients may call the server")  # fmt: skip
    parser.add_argument(
        "--cors-origin", action="append", default=[], metavar="ORIGIN",
        help="origin of a web page that may call the server; null for a file",
    )  # fmt: skip
    parser.add_argument("--max-queue", type=whole_number(0, 10_000), default=32, metavar="N",
                        help="requests that may wait; more are refused [32]")  # fmt: skip
    parser.add_argument("--max-rows", type=whole_number(1, 64), default=16, metavar="N",
                        help="texts that are written at once [16]")  # fmt: skip
    parser.add_argument(
        "--request-seconds", type=whole_number(1, 86_400), default=600, metavar="N",
        help="time after which a request ends with what is written [600]",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true",
                        help="refuse methods that are not offered")  # fmt: skip
    add_settings(parser, GenerationSettings, only=("weights",))
    add_settings(parser, MachineSettings)


def run(arguments: argparse.Namespace) -> int:
    """Serve."""
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"cwgpt serve needs {package}", 'pip install "creativewritinggpt[serve]"'
            )
    from ..server.security import is_loopback, key_hash

    keys = _keys(arguments.api_key_file)
    if not is_loopback(arguments.host):
        if not arguments.allow_network:
            raise InputError(
                f"other machines reach {arguments.host}",
                "add --allow-network and --api-key-file FILE, or leave --host out",
            )
        if not keys:
            raise InputError(
                "a server that other machines reach needs a key", "add --api-key-file FILE"
            )
    adapters = [_adapter(text) for text in arguments.adapter]
    machine = machine_settings(arguments)
    from ..server.app import build_app
    from ..server.process import listen, run_server
    from ..server.scheduler import Scheduler
    from ..server.security import Access
    from ..server.service import Service

    sockets = listen(arguments.host, arguments.port)
    port = sockets[0].getsockname()[1]
    from ..models.loading import load_from_settings

    model = load_from_settings(arguments.model, machine)
    served = _served(model, arguments.model, adapters, getattr(arguments, "weights", "auto"))
    scheduler = Scheduler(served, max_queue=arguments.max_queue, most_rows=arguments.max_rows)
    service = Service(scheduler, strict=arguments.strict, seconds=arguments.request_seconds)
    own = () if is_loopback(arguments.host) else (arguments.host,)
    access = Access(
        port=port,
        hosts=tuple(name.lower() for name in (*arguments.allowed_host, *own)),
        origins=tuple(arguments.cors_origin),
        keys=tuple(key_hash(key) for key in keys),
    )
    _announce(arguments.host, port, [one.name for one in served], bool(keys))
    app = build_app(service, access)
    scheduler.start()
    return run_server(app, sockets, scheduler.close)


def _keys(path: str | None) -> list[str]:
    from ..server.app import read_keys

    keys = read_keys(path) if path else []
    variable = os.environ.get(KEY_VARIABLE)
    return [*keys, variable] if variable else keys


def _adapter(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not equals or not name or not folder:
        raise InputError(f"--adapter is {text!r}", "write --adapter NAME=FOLDER")
    return name, folder


def _served(
    model: LoadedModel, name: str, adapters: list[tuple[str, str]], weights: str
) -> list[ServedModel]:
    """The models that clients can name: ``--model``, and it with each adapter."""
    from ..generation.style import blend, set_strength
    from ..server.scheduler import ServedModel

    first = Path(name).name or name
    if not adapters:
        return [ServedModel(first, model, weights=weights)]
    if len({first, *(name for name, _ in adapters)}) <= len(adapters):
        raise InputError("two models would have one name", "choose other names with --adapter")
    own = model.adapter

    def selecting(folder: str) -> Callable[[], None]:
        return lambda: blend(model, [(folder, 1.0)])

    def select_first() -> None:
        if own is not None:
            blend(model, [(own, 1.0)])
        else:
            set_strength(model, 0.0)

    served = [ServedModel(first, model, select_first, weights)]
    for name, folder in adapters:
        blend(model, [(folder, 1.0)])  # loaded now, so that what is wrong is said now
        served.append(ServedModel(name, model, selecting(folder), weights))
    return served


def _announce(host: str, port: int, names: list[str], keyed: bool) -> None:
    """Say what is served, where, and how to call it."""
    name = f"[{host}]" if ":" in host else host
    base = f"http://{name}:{port}"
    sys.stdout.write(f"serving {', '.join(names)} at {base}\n")
    sys.stdout.flush()
    key = ' -H "Authorization: Bearer $CWGPT_API_KEY"' if keyed else ""
    console.note(f"OpenAI base URL {base}/v1, KoboldAI URL {base}; Ctrl-C ends it")
    console.note(
        f"try: curl {base}/v1/completions -H 'Content-Type: application/json'{key} "
        f"""-d '{{"prompt": "The night ferry was late,", "max_tokens": 40}}'"""
    )
