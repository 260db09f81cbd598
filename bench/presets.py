"""Figures behind the presets: what each does to likelihood, repetition and variety.

    python bench/presets.py [--model NAME] [--n 4] [--tokens 120] [--texts FILE]

Every preset continues the three example prompts with the same seeds. Repetition is the share of
runs of four words that came before in the same text; variety is the share of different word pairs
among all pairs of the texts of one prompt.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from creativewritinggpt import console
from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.results import Generated, repeated_share
from creativewritinggpt.generation.sampling.settings import presets, settings_for
from creativewritinggpt.models.loading import load_model
from creativewritinggpt.session.repl import EXAMPLES


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"[\w'’]+", text.lower())


def variety(texts: Sequence[Generated]) -> float:
    """Different word pairs among all of them; 0…1."""
    pairs = [pair for t in texts for w in [words(t.text)] for pair in zip(w, w[1:], strict=False)]
    return len(set(pairs)) / max(1, len(pairs))


def repetition(text: Generated) -> float:
    """Runs of four words that came before in the same text; 0…1."""
    found = words(text.text)
    numbers = {word: number for number, word in enumerate(dict.fromkeys(found))}
    return repeated_share([numbers[word] for word in found])


def main() -> None:
    """Write with every preset and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--texts", type=Path, help="write the texts themselves to this file")
    parser.add_argument("--only", nargs="*", help="these presets only")
    arguments = parser.parse_args()
    writer = load_model(arguments.model, threads=arguments.threads)
    rows, shown = [], []
    for name in [None, *presets()]:
        if arguments.only and name not in arguments.only:
            continue
        settings = settings_for(name, {"max_new_tokens": arguments.tokens, "seed": 1})
        by_prompt = [write(writer, prompt, settings, n=arguments.n) for prompt in EXAMPLES]
        every = [text for texts in by_prompt for text in texts]
        rows.append(
            (
                name or "(defaults)",
                f"{statistics.mean(text.mean_logprob for text in every):.2f}",
                f"{statistics.mean(repetition(text) for text in every):.1%}",
                f"{statistics.mean(variety(texts) for texts in by_prompt):.1%}",
                f"{statistics.mean(len(words(text.text)) for text in every):.0f}",
            )
        )
        shown += [f"=== {name}, seed {t.seed}\n{t.prompt}{t.text}\n" for t in every]
    columns = ["preset", "mean log-probability", "repetition", "variety", "words"]
    console.table(f"{writer.name}: {arguments.n} texts for each of 3 prompts", columns, rows)
    if arguments.texts:
        arguments.texts.write_text("\n".join(shown), "utf-8")


if __name__ == "__main__":
    main()
