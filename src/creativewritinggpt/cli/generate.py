"""``cwgpt generate``: write once, for many prompts, or in a session."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import console
from ..config.fields import MachineSettings
from ..errors import InputError
from ..files import cache_folder, from_home
from ..generation.sampling.settings import GenerationSettings, typed
from ..generation.style import Style
from .main import (
    add_json,
    add_model,
    add_settings,
    given,
    machine_settings,
    piped_text,
    short_usage,
    warn_unused,
    whole_number,
)

if TYPE_CHECKING:
    from ..generation.batch import Prompt
    from ..generation.results import Generated, Scores
    from ..models.loaded_model import LoadedModel
    from ..session.session import Learn, Ordering
    from ..story.tree import Story


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[PROMPT] [flags]")
    parser.description = (
        "Continue PROMPT with a model; piped text is put before it. Without either, on a\n"
        "terminal, an interactive session starts. The text goes to stdout, all else to stderr."
    )
    parser.epilog = (
        "examples:\n"
        '  cwgpt generate "The night ferry was late,"\n'
        '  cwgpt generate "Once upon a time" --n 4 --temperature 1.1 --seed 7\n'
        "  cwgpt generate --prompts prompts.txt --json\n"
        "  cat chapter.txt | cwgpt generate --max-new-tokens 300\n"
        "  cwgpt generate --story stories/ferry.json --preset mystery"
    )
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="text to continue")
    add_model(parser)
    parser.add_argument(
        "--story", metavar="FILE",
        help="session on the story in FILE (.json, made where it does not exist), or on one of "
        "another program, which is imported",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", metavar="FILE", help="continue every line of FILE (.jsonl: its `prompt`)"
    )
    parser.add_argument(
        "--out", metavar="FILE",
        help="write JSON lines there, one by one; cwgpt choices reads which ones you picked",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="continue an --out FILE that exists")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="preset by genre or mood, or a YAML file of settings",
    )
    parser.add_argument(
        "--presets", action="store_true", help="list the presets with their reasons"
    )
    parser.add_argument(
        "--style",
        metavar="X",
        help="scale of the adapter: 0 base model, 1 as trained, at most 1.5",
    )
    parser.add_argument(
        "--adapter", metavar="FOLDER:W", action="append", default=[],
        help="add this adapter with weight W; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--choices", metavar="FILE", action="append", default=[],
        help="a story or a file of choices to learn the order of drafts from, for --rank-by taste "
        "and for /alt; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--alternatives", type=whole_number(0, 100), default=0, metavar="N",
        help="with --json or --out: N alternatives per token, before and after the samplers",
    )  # fmt: skip
    parser.add_argument(
        "--n", type=whole_number(1, 64), default=1, metavar="N", help="number of continuations [1]"
    )
    add_json(parser)
    add_settings(parser, GenerationSettings)
    add_settings(parser, MachineSettings)


def run(arguments: argparse.Namespace) -> int:
    """Write."""
    from ..generation.sampling.settings import presets, settings_for

    if arguments.presets:
        if arguments.json:
            listed = {name: {"why": one.why, **one.values} for name, one in presets().items()}
            console.print_json({"presets": listed})
        else:
            listing = console.columns((name, preset.why) for name, preset in presets().items())
            sys.stdout.write(listing)
        return 0
    settings = settings_for(arguments.preset, typed(given(arguments, GenerationSettings)))
    warn_unused(settings.without_effect(given(arguments, GenerationSettings)))
    style = Style.parse(arguments.adapter, arguments.style)
    machine = machine_settings(arguments)
    if arguments.resume and not arguments.out:
        raise InputError("--resume goes with --out FILE", "give --prompts FILE --out FILE")
    if arguments.prompts and any(arguments.prompt):
        raise InputError("give PROMPT or --prompts FILE, not both")
    if arguments.story is not None:
        if arguments.prompts or arguments.json or arguments.out:
            raise InputError(
                "--story begins a session, which has no --prompts, no --out and no --json"
            )
        return _session(arguments, settings, style, machine)
    prompts = _prompts(arguments)
    if prompts is None:
        if arguments.out:
            raise InputError("--out needs a prompt", "give PROMPT or --prompts FILE")
        return _session(arguments, settings, style, machine)
    if arguments.alternatives and not (arguments.json or arguments.out):
        warn_unused({"alternatives": "they are in the JSON; add --json or --out FILE"})
    if arguments.n > 1 and settings.greedy and not settings.banned:
        warn_unused({"n": "at temperature 0 all continuations are the same"})
    if arguments.out:
        from ..generation.batch import check_files

        check_files(prompts, arguments.out, arguments.resume)
    taste = _taste(arguments.choices, settings)
    from ..models.loading import load_from_settings

    model = load_from_settings(arguments.model, machine)
    style.apply(model)
    if arguments.out:
        return _to_file(model, prompts, settings, arguments, taste)
    if not arguments.json and len(prompts) == 1 and arguments.n == 1 and not settings.best_of:
        return _stream(model, prompts[0], settings)
    return _all(model, prompts, settings, arguments, taste)


def _to_file(
    model: LoadedModel,
    prompts: list[Prompt],
    settings: GenerationSettings,
    arguments: argparse.Namespace,
    taste: Scores | None,
) -> int:
    """Continue prompts into a file of JSON lines."""
    from ..generation.batch import write_file

    with console.progress("writing") as progress:
        count = write_file(
            model, prompts, arguments.out, settings, arguments.n,
            resume=arguments.resume, alternatives=arguments.alternatives, taste=taste,
            progress=console.counting(progress, "writing"),
        )  # fmt: skip
    console.note(f"{console.counted(count, 'prompt')} continued in {arguments.out}")
    if arguments.json:
        document = {
            "model": model.name, "base": model.base_name, "prompts": count, "out": arguments.out,
        }  # fmt: skip
        console.print_json(document)
    return 0


def _prompts(arguments: argparse.Namespace) -> list[Prompt] | None:
    """The prompts, or None for a session."""
    words = " ".join(arguments.prompt)
    if arguments.prompts:
        from ..generation.batch import read_prompts

        return read_prompts(arguments.prompts)
    if not sys.stdin.isatty():
        words = "\n".join(part for part in (piped_text(), words) if part)
    elif not arguments.prompt and not arguments.json:
        return None
    # Not at the top: a session starts before torch is imported.
    from ..generation.batch import Prompt

    return [Prompt(1, words)]


def _stream(model: LoadedModel, prompt: Prompt, settings: GenerationSettings) -> int:
    """Write one text, shown as it comes."""
    from ..generation.engine import stream

    shown = console.printable if sys.stdout.isatty() else str
    sys.stdout.write(shown(prompt.text))
    sys.stdout.flush()
    result: Generated | None = None
    for piece in stream(
        model, prompt.text, prompt.settings(settings), memory=prompt.memory, note=prompt.note
    ):
        sys.stdout.write(shown(piece.text))
        sys.stdout.flush()
        result = piece.result or result
    sys.stdout.write("\n")
    sys.stdout.flush()
    if result is None:
        return 0
    _say_seed(result)
    return 130 if result.finish_reason == "interrupted" else 0


def _all(
    model: LoadedModel,
    prompts: list[Prompt],
    settings: GenerationSettings,
    arguments: argparse.Namespace,
    taste: Scores | None,
) -> int:
    """Write several texts, or one as JSON."""
    from ..generation.engine import Interrupted, write

    results: list[Generated] = []
    code = 0
    for prompt in prompts:
        try:
            results += write(
                model, prompt.text, prompt.settings(settings), arguments.n,
                memory=prompt.memory, note=prompt.note, alternatives=arguments.alternatives,
                taste=taste,
            )  # fmt: skip
        except Interrupted as stopped:
            results += stopped.results
            code = 130
            break
    if arguments.json:
        document: dict[str, Any] = {
            "model": model.name,
            "base": model.base_name,
            "results": [result.to_dict() for result in results],
        }
        console.print_json(document)
        return code
    shown = console.printable if sys.stdout.isatty() else str
    for number, result in enumerate(results):
        if number:
            sys.stdout.write("\n---\n\n")
        sys.stdout.write(shown(result.prompt + result.text) + "\n")
        _say_seed(result)
    return code


def _say_seed(result: Generated) -> None:
    console.note(f"seed {result.seed}; the same seed and settings give this text again")


def _session(
    arguments: argparse.Namespace,
    settings: GenerationSettings,
    style: Style,
    machine: MachineSettings,
) -> int:
    """Hold an interactive session."""
    several = "a session writes one text; /alt N writes alternatives"
    unused = {"n": several} if arguments.n != 1 else {}
    if arguments.alternatives:
        unused["alternatives"] = "a session has /probs"
    warn_unused(unused)
    from ..session.commands import COMMANDS
    from ..session.repl import run as hold
    from ..session.session import StyledModel

    def load(name: str) -> StyledModel:
        from ..models.loading import load_from_settings

        model = load_from_settings(name, machine)
        # --adapter and --style belong to --model alone.
        return StyledModel(model, (style if name == arguments.model else Style()).apply(model))

    return hold(
        settings, load, arguments.model, COMMANDS, story=arguments.story, preset=arguments.preset,
        first=" ".join(arguments.prompt) or None, explain=_explain,
        learn=_learner(arguments.choices), at_once=not _at_hand(arguments, machine),
    )  # fmt: skip


def _taste(files: Sequence[str], settings: GenerationSettings) -> Scores | None:
    """What ``--rank-by taste`` ranks by.

    Raises:
        InputError: There are no choices, or they teach nothing yet.
    """
    if not settings.best_of or settings.rank_by != "taste":
        if files:
            warn_unused({"choices": "--best-of N --rank-by taste ranks by them"})
        return None
    if not files:
        raise InputError(
            "there are no choices to rank drafts by",
            "give stories or files of choices with --choices FILE, or --rank-by varied",
        )
    from ..taste.ranker import learn_from

    ranker = learn_from(files)
    if not ranker.trial.beyond_chance:
        raise InputError(ranker.sentence, "--rank-by varied needs no choices")
    console.note(ranker.sentence)
    return ranker.scores


def _learner(files: Sequence[str]) -> Learn:
    """Orders drafts of a session by the choices of its story and of files."""
    from ..session.session import Ordering
    from ..story.choice_files import read_any
    from ..story.decisions import Decisions

    earlier = Decisions()
    for file in files:
        earlier.add(read_any(file))

    def order(story: Story) -> Ordering | None:
        # Not at the top: the first prompt appears before numpy is imported.
        from ..story.decisions import decisions
        from ..taste.ranker import FEWEST, learn, usable

        found = Decisions()
        found.add(earlier)
        found.add(decisions(story))
        found.drop_contradicting()
        if len(usable(found.used)) < FEWEST:
            return None
        ranker = learn(found.used)
        if not ranker.trial.beyond_chance:
            return None
        return Ordering(ranker.scores, ranker.sentence)

    return order


def _explain(model: LoadedModel, text: str, word: str) -> str:
    """The answer of the session's ``/why``."""
    from ..analysis.why import why

    return why(model, text, word)


def _at_hand(arguments: argparse.Namespace, machine: MachineSettings) -> bool:
    """Whether the model can be loaded without a download and without asking the hub."""
    folder = from_home(arguments.model)
    if folder.is_dir() and not (folder / "adapter_config.json").is_file():
        return True
    # The starter, and adapters, most of which are on it.
    starter = any(cache_folder(machine.cache_dir).glob("starter-*"))
    return starter and (arguments.model == "starter" or folder.is_dir())
