"""Run the campaign, or a part of it.

    python tests/campaign [--minutes N] [--only NAME,…] [--match REGEX] [--seed N] [--short]
                          [--again] [--results FILE] [--report]

Results go to a file, one line for each trial; what stands there is not done again, so a campaign
goes on where it was stopped. Exit code 1 where a trial failed.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

if __package__ in (None, ""):
    here = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(here), str(here.parent / "bench"), str(here / "studio")]

from campaign import frame, report

PARTS = ("kills", "services", "damage", "places", "inputs", "long")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--only", default="", help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--match", help="only trials whose name has this regular expression")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=float, default=1.0, help="factor for random trials")
    parser.add_argument("--short", action="store_true", help="the few that make test-all runs")
    parser.add_argument("--again", action="store_true", help="do again what is in the results")
    parser.add_argument("--results", type=Path, default=Path("campaign.jsonl"))
    parser.add_argument("--report", action="store_true", help="print the results as Markdown")
    arguments = parser.parse_args()
    if arguments.report:
        sys.stdout.write(report.markdown(arguments.results))
        return 0
    names = [name for name in arguments.only.split(",") if name]
    if unknown := set(names) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    importlib.import_module("preloaded")
    parts = [importlib.import_module(f"campaign.{name}").PART for name in names or PARTS]
    parts = [part for part in parts if names or not part.on_demand]
    record = frame.Record(None if arguments.short else arguments.results, arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="cwgpt-campaign-"))
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        faults = frame.run(
            parts, frame.Bench(arguments.seed, folder, arguments.rounds), record,
            began + 60 * arguments.minutes, short=arguments.short, pattern=arguments.match,
            again=arguments.again, say=say,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(report.summary(record, time.monotonic() - began))
    for name, fault in faults:
        say(f"FAULT {name}: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
