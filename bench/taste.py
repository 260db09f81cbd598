"""What a model learns from choices: simulated writers, whose taste is known.

    python bench/taste.py FILE… --out DIR [--minutes N] [--model starter]
                          [--tastes NAME,…] [--choices N,…] [--methods NAME,…] [--seeds 3] [--json]

A writer by rule (``taste_writers.py``) is shown three drafts of the base model after each of 10 to
200 prompts, and takes one. Then each method learns from these choices, and the writer reads one
draft after each of 96 other prompts: the share that is good enough to be taken. The base's is
30 %, by the reservation score. Base and tuned model write with the same random numbers.

Methods: the ranker alone (four drafts of the base, its first); training on what was accepted,
preference tuning (also with the ranker over four drafts of the tuned model), KTO and ORPO. The
settings of training are the library's own, or those given by --set.

The model is a small one that the bench trains on FILE…, or another by --model; FILE… gives the
prompts, too. Every cell is a line of DIR/cells.jsonl: a further call goes on,
and --minutes ends it in time. The table is of all cells that are there. Intervals: 95 %, prompts
drawn anew with all that was measured at each (paired between methods and tastes), seeds as they
are. The writer who picks at random has no rule: what was learnt from those picks is judged by the
other writers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import taste_model
from measuring import machine
from taste_writers import RANDOM, TASTES, choices, reservation

from creativewritinggpt import console
from creativewritinggpt.errors import InputError
from creativewritinggpt.evaluation.metrics import distinct_n, seq_rep_n, words_of
from creativewritinggpt.models.adapter import attach
from creativewritinggpt.models.loaded_model import LoadedModel
from creativewritinggpt.story.decisions import Decision
from creativewritinggpt.taste.ranker import learn

COUNTS = (100, 50, 200, 20, 10)  # in the order in which they are run
RANKER, TRAINED = "ranker", ("accepted", "preference", "kto", "orpo")
ORDERED = (RANKER, "preference")
"""Methods after which the ranker orders drafts."""
OFFERED, DRAFTS, JUDGED, WINDOWS = 3, 4, 96, 32
RESAMPLES = 2000


@dataclasses.dataclass
class Drafts:
    """What the base wrote for one seed, whoever the writer is.

    Attributes:
        prompts: Prompts of the choices.
        offered: [prompts][3] drafts there.
        starts: Prompts to judge at, as tokens.
        judged: [prompts][4] drafts there.
        firsts: Each such prompt with its first draft, as tokens.
        first_losses: The base's loss on these drafts.
        others: Tokens of texts by people, for forgetting.
        other_loss: The base's loss on them.
    """

    prompts: list[str]
    offered: list[list[str]]
    starts: list[list[int]]
    judged: list[list[str]]
    firsts: list[list[int]]
    first_losses: list[float]
    others: list[list[int]]
    other_loss: float


def base_drafts(
    name: str, files: Sequence[str], seed: int, folder: Path, count: int, judged: int
) -> Drafts:
    """Let the base write; drafts that are in the folder are read, if they are enough."""
    file = folder / f"drafts-{seed}.json"
    if file.exists():
        there = Drafts(**json.loads(file.read_text(encoding="utf-8")))
        if len(there.prompts) >= count and len(there.starts) == judged:
            return there
    _, to_choose, to_judge = taste_model.texts(files, habits=name != "starter")
    loaded = taste_model.load(name)
    asked = taste_model.prompts(loaded, to_choose, count, seed)
    starts = taste_model.prompts(loaded, to_judge, judged, seed)
    if len(asked) < count or len(starts) < judged:
        raise InputError(
            f"the texts have {len(asked)} places to choose at and {len(starts)} to judge at",
            f"{count} and {judged} are needed: give more text",
        )
    offered = taste_model.write(loaded, asked, OFFERED, 2 * seed)
    at = taste_model.write(loaded, starts, DRAFTS, 2 * seed + 1)
    firsts = [
        [loaded.bos_id, *start, *written[0]] for start, written in zip(starts, at, strict=True)
    ]
    others = taste_model.windows(loaded, to_judge, WINDOWS)
    found = Drafts(
        [loaded.tokenizer.decode(one) for one in asked], _texts(loaded, offered),
        starts, _texts(loaded, at),
        firsts, taste_model.losses(loaded, firsts, taste_model.PROMPT + 1),
        others, float(np.mean(taste_model.losses(loaded, others))),
    )  # fmt: skip
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(dataclasses.asdict(found)), encoding="utf-8")
    temporary.replace(file)
    return found


def _texts(loaded: LoadedModel, drafts: Sequence[Sequence[list[int]]]) -> list[list[str]]:
    return [[loaded.tokenizer.decode(one) for one in at] for at in drafts]


def cell(
    name: str, drafts: Drafts, taste: str, count: int, seed: int, method: str,
    changes: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Learn from the choices of one writer by one method, and judge."""
    place = [*TASTES, RANDOM].index(taste)
    picked = choices(
        drafts.prompts, drafts.offered, TASTES.get(taste), np.random.default_rng((seed, place))
    )[:count]
    started = time.perf_counter()
    ranker = learn(picked)
    judges = [taste] if taste in TASTES else list(TASTES)
    enough = {
        judge: reservation([TASTES[judge](text) for texts in drafts.offered for text in texts])
        for judge in judges
    }
    before = _taken([texts[0] for texts in drafts.judged], enough)
    row: dict[str, Any] = {
        "taste": taste, "choices": count, "seed": seed, "method": method,
        "learnt": ranker.trial.beyond_chance, "before": before,
    }  # fmt: skip
    written = drafts.judged
    if method != RANKER:
        loaded, told = tuned(name, picked, seed, method, changes)
        row |= told
        row["seconds"] = time.perf_counter() - started
        written = _texts(loaded, taste_model.write(loaded, drafts.starts, DRAFTS, 2 * seed + 1))
        other = float(np.mean(taste_model.losses(loaded, drafts.others)))
        now = taste_model.losses(loaded, drafts.firsts, taste_model.PROMPT + 1)
        change = np.array(now) - np.array(drafts.first_losses)
        row["forgetting"] = other - drafts.other_loss
        for key, digit in (("liked", "1"), ("disliked", "0")):
            chosen = np.array([[one == digit for one in bits] for bits in before.values()]).T
            row[key] = float(change[chosen.any(1)].mean()) if chosen.any() else 0.0
    if method in ORDERED:
        row["ranked"] = _taken([texts[ranker.order(texts)[0]] for texts in written], enough)
    words = [words_of(texts[0]) for texts in written]
    return row | {
        "taken": _taken([texts[0] for texts in written], enough),
        "repetition": seq_rep_n(words, 3), "distinct": distinct_n(words, 2),
    }  # fmt: skip


def tuned(
    name: str, picked: Sequence[Decision], seed: int, method: str, changes: dict[str, Any]
) -> tuple[LoadedModel, dict[str, Any]]:
    """The model after learning, its adapter merged; how the run ended, and at which step."""
    from creativewritinggpt.taste.learning import fit
    from creativewritinggpt.taste.settings import ChoiceSettings, choices_config

    loaded = taste_model.load(name)
    names = {field.name for field in dataclasses.fields(ChoiceSettings)}
    settings = {key: value for key, value in changes.items() if key in names}
    config = choices_config(
        seed=seed, **{key: value for key, value in changes.items() if key not in names}
    )
    attach(loaded, config)
    learnt = fit(loaded, picked, ChoiceSettings(choices_method=method, **settings), config)
    loaded.model = loaded.model.merge_and_unload()
    loaded.model.eval()
    return loaded, {
        "outcome": learnt.outcome, "steps": learnt.steps, "best_step": learnt.best_step,
    }  # fmt: skip


def _taken(texts: Sequence[str], enough: dict[str, float]) -> dict[str, str]:
    """For each judge a digit for each text: 1 where it is good enough."""
    return {
        judge: "".join(str(int(TASTES[judge](text) >= least)) for text in texts)
        for judge, least in enough.items()
    }


def cells(
    tastes: Sequence[str], counts: Sequence[int], seeds: int, methods: Sequence[str]
) -> Iterator[tuple[int, int, str, str]]:
    """All (choices, seed, method, taste), the most telling first."""
    for count in counts:
        for seed in range(seeds):
            for method in methods:
                for taste in tastes:
                    yield count, seed, method, taste


def run(arguments: argparse.Namespace) -> None:
    """Run what is not there yet, until the time is over."""
    deadline = time.monotonic() + 60 * arguments.minutes
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    name, judged = arguments.model, arguments.judged
    if not name:
        known, _, _ = taste_model.texts(arguments.files, habits=True)
        name = str(folder / "model")
        taste_model.make(Path(name), known, deadline)
    file = folder / "cells.jsonl"
    there = {_key(row) for row in read(file)}
    kept: dict[int, Drafts] = {}
    label = arguments.model or "small"
    for count, seed, method, taste in cells(
        arguments.tastes, arguments.choices, arguments.seeds, arguments.methods
    ):
        if (taste, count, seed, method) in there:
            continue
        if time.monotonic() > deadline:
            return
        if seed not in kept:
            most = max(COUNTS) if not arguments.model else max(arguments.choices)
            kept[seed] = base_drafts(name, arguments.files, seed, folder, most, judged)
        changes = {"draft_prompts": 0} | arguments.set.get(method, {})
        row = cell(name, kept[seed], taste, count, seed, method, changes)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row | {"model": label}) + "\n")


def _key(row: dict[str, Any]) -> tuple[str, int, int, str]:
    return row["taste"], row["choices"], row["seed"], row["method"]


def read(file: Path) -> list[dict[str, Any]]:
    """The cells of a folder; a line that a kill cut off is left out."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


class Table:
    """Shares of first drafts that are taken, of all cells of a folder.

    Args:
        rows: The cells.
    """

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows
        self.bits: dict[tuple[str, int, str], dict[int, np.ndarray]] = {}
        for row in rows:
            method = row["method"]
            found = {"nothing": "before"}
            if method == RANKER:
                found[RANKER] = "ranked"
            else:
                found[method] = "taken"
                if "ranked" in row:
                    found[f"{method} and ranker"] = "ranked"
            for name, which in found.items():
                digits = [[int(one) for one in bits] for bits in row[which].values()]
                at = self.bits.setdefault((row["taste"], row["choices"], name), {})
                at[row["seed"]] = np.mean(digits, 0)

    @property
    def methods(self) -> list[str]:
        """All that were measured, in their order."""
        order = ["nothing", RANKER, *TRAINED, *(f"{one} and ranker" for one in TRAINED)]
        there = {method for _, _, method in self.bits}
        return [one for one in order if one in there]

    def by_prompt(self, tastes: Sequence[str], count: int, method: str) -> dict[int, np.ndarray]:
        """[prompts] by seed, a mean over those tastes; only seeds that have all."""
        found = [self.bits.get((taste, count, method), {}) for taste in tastes]
        seeds = set.intersection(*(set(one) for one in found))
        return {seed: np.mean([one[seed] for one in found], 0) for seed in sorted(seeds)}

    def interval(
        self, tastes: Sequence[str], count: int, method: str, less: str = ""
    ) -> tuple[float, float, float] | None:
        """The share, or by how much it is above another method's, with its interval."""
        one = self.by_prompt(tastes, count, method)
        if less:
            other = self.by_prompt(tastes, count, less)
            one = {seed: one[seed] - other[seed] for seed in one.keys() & other.keys()}
        if not one:
            return None
        generator = np.random.default_rng(0)
        means = np.mean([
            bits[generator.integers(len(bits), size=(RESAMPLES, len(bits)))].mean(1)
            for _, bits in sorted(one.items())
        ], 0)  # fmt: skip
        low, high = np.percentile(means, [2.5, 97.5])
        return float(np.mean([bits.mean() for bits in one.values()])), float(low), float(high)


def _span(found: tuple[float, float, float] | None, sign: str = "") -> str:
    return "" if found is None else "{:{s}.0%} ({:{s}.0%} to {:{s}.0%})".format(*found, s=sign)


def show(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print the tables, and give what is in them."""
    table, result = Table(rows), {}
    counts = sorted({row["choices"] for row in rows})
    tastes = [one for one in TASTES if any(row["taste"] == one for row in rows)]
    for title, judged in (
        ("First drafts that are taken, mean of the tastes, by choices", tastes),
        ("Learnt from picks at random, judged by the other writers", [RANDOM]),
    ):
        found = {m: {n: table.interval(judged, n, m) for n in counts} for m in table.methods}
        result[title] = found
        lines = [[m, *(_span(found[m][n]) for n in counts)] for m in table.methods]
        console.table(title, ["method", *map(str, counts)], lines)
    above = {
        m: {n: table.interval(tastes, n, m, "accepted") for n in counts}
        for m in table.methods if m != "accepted"
    }  # fmt: skip
    result["above accepted"] = above
    console.table(
        "Above training on accepted text", ["method", *map(str, counts)],
        [[m, *(_span(of[n], "+") for n in counts)] for m, of in above.items()],
    )  # fmt: skip
    for count in counts:
        lines = [
            [one, *(_share(table.by_prompt([one], count, m)) for m in table.methods)]
            for one in [*tastes, RANDOM]
        ]
        console.table(f"By taste, {count} choices", ["taste", *table.methods], lines)
    _show_beside(rows, counts)
    return result


def _share(found: dict[int, np.ndarray]) -> str:
    return f"{np.mean([bits.mean() for bits in found.values()]):.0%}" if found else ""


def _show_beside(rows: Sequence[dict[str, Any]], counts: Sequence[int]) -> None:
    """What else changed."""
    columns = ("liked", "disliked", "forgetting", "repetition", "distinct", "seconds")
    for count in counts:
        lines = []
        for random in (False, True):
            for method in (RANKER, *TRAINED):
                these = [
                    row for row in rows
                    if (row["choices"], row["method"]) == (count, method)
                    and (row["taste"] == RANDOM) == random
                ]  # fmt: skip
                if these:
                    name = "nothing" if method == RANKER else method
                    lines.append([f"{name}, picks at random" if random else name, *(
                        f"{np.mean([row[key] for row in these]):+.3f}" if key in these[0] else ""
                        for key in columns
                    )])  # fmt: skip
        console.table(f"Beside it, {count} choices", ["method", *columns], lines)


def _names(known: Sequence[str]) -> Any:
    def parse(text: str) -> list[str]:
        found = [one.strip() for one in text.split(",")]
        if wrong := [one for one in found if one not in known]:
            raise argparse.ArgumentTypeError(f"{wrong[0]}: there are {', '.join(known)}")
        return found

    return parse


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="texts, some MB together")
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder for each model")
    parser.add_argument("--minutes", type=float, default=1e6, help="end after so long")
    parser.add_argument("--model", default="", help="a model, instead of the small one")
    parser.add_argument("--tastes", type=_names([*TASTES, RANDOM]), default=[*TASTES, RANDOM])
    parser.add_argument(
        "--choices", type=lambda text: [int(one) for one in text.split(",")], default=COUNTS
    )
    parser.add_argument("--methods", type=_names([RANKER, *TRAINED]), default=[RANKER, *TRAINED])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--judged", type=int, default=JUDGED, help="prompts to judge at")
    example = '{"kto": {"learning_rate": 0.001}}'
    parser.add_argument(
        "--set", type=json.loads, default={}, metavar="JSON",
        help=f"settings of training by method, such as {example}",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except taste_model.Unfinished as error:
        console.note(str(error))
        return
    except InputError as error:
        sys.exit(f"{error}; {error.advice}")
    rows = read(Path(arguments.out) / "cells.jsonl")
    if not rows:
        return
    found = show(rows)
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": machine(), "tables": found}) + "\n")


if __name__ == "__main__":
    main()
