"""Small corpora of made-up text for tests."""

from __future__ import annotations

import json
import random
from pathlib import Path

TEXT = (
    "The lamp went out, and the captain laughed. “Who is there?” she asked. Nobody answered; "
    "only the sea, 3,000 fathoms of it, turned over in its sleep. Once upon a time a king had "
    "three daughters and no patience. He's gone, they said, don't wait for him. "
)

_SOURCE = (
    "the a an old young quiet bright lamp ship king daughter sea fathoms captain sleep turned over "
    "laughed asked answered waited opened closed walked found lost remembered window door letter "
    "garden winter morning three daughters patience nobody only and but because until never always"
)
_WORDS = _SOURCE.split()


def story(generator: random.Random, sentences: int) -> str:
    """Some sentences of words in random order."""
    lines = []
    for _ in range(sentences):
        words = generator.choices(_WORDS, k=generator.randint(6, 12))
        lines.append(" ".join(words).capitalize() + ".")
    return " ".join(lines)


def write_stories(path: Path, count: int = 40, seed: int = 0, sentences: int = 4) -> Path:
    """A JSON-lines file of ``prompt`` and ``story``."""
    generator = random.Random(seed)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            row = {"prompt": f"Prompt {number} of {seed}.", "story": story(generator, sentences)}
            stream.write(json.dumps(row) + "\n")
    return path
