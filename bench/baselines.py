"""What integrated gradients start from: steps, error and faithfulness of each baseline.

    python bench/baselines.py --passages 8

The starter on the beginnings of documents of the sample corpus. The last token of each is explained
from every baseline with as many steps as its error needs, at most 512, and the explanation is
judged: comprehensiveness (high is good) and sufficiency (low is good) in nats, with end-of-text and
with frequent tokens standing in.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.resources import files

from creativewritinggpt import load
from creativewritinggpt.analysis.forward import BASELINES
from creativewritinggpt.analysis.methods.faithfulness import Judge
from creativewritinggpt.analysis.methods.gradients import integrated_gradients
from creativewritinggpt.analysis.subject import Target, read, with_targets

FIELDS = {"writingprompts": "story", "rocstories": "continuation"}


def passages(count: int, words: int) -> list[str]:
    """The first words of documents, one file of the corpus after the other."""
    found = []
    for name, field in FIELDS.items():
        text = (files("creativewritinggpt.data") / "sample" / f"{name}.jsonl").read_text("utf-8")
        rows = [json.loads(line)[field].split() for line in text.splitlines()]
        found += [" ".join(row[:words]) for row in rows if len(row) >= words][: -(-count // 2)]
    return found[:count]


def main() -> None:
    """Print a line for each passage and baseline, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=8)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--baselines", nargs="+", default=list(BASELINES), choices=BASELINES)
    parser.add_argument("--model", default="starter")
    options = parser.parse_args()
    writer = load(options.model, precision="fp32")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in options.baselines}
    for text in passages(options.passages, options.words):
        subject = read(writer, text, room=0)
        last = subject.length - 1
        subject = with_targets(subject, [Target(last, subject.ids[last])])
        room = Judge(writer, subject)
        for name in options.baselines:
            began = time.perf_counter()
            found = integrated_gradients(writer, subject, baseline=name)
            seconds = time.perf_counter() - began
            (report,) = found.per_target
            row = {key: report[key] for key in ("steps", "relative_delta", "converged")}
            row["seconds"] = seconds
            for law, numbers in room.judge(found).laws.items():
                for key in ("comprehensiveness", "sufficiency"):
                    row[f"{key}.{law}"] = numbers[key]
            rows[name].append(row)
            print(json.dumps({"tokens": last, "baseline": name, **row}), flush=True)
    for name, some in rows.items():
        means = {key: round(sum(row[key] for row in some) / len(some), 3) for key in some[0]}
        print(json.dumps({"baseline": name, "mean of": len(some), **means}))


if __name__ == "__main__":
    main()
