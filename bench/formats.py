"""How far each fast number format's next-token distributions are from float32, on real text.

    python bench/formats.py FILE [--stories 12] [--tokens 200] [--formats onnx rotated int8 …]

FILE holds a story a line, as text or as JSON with the story under `story` or `text`; the first
ones that are long enough are taken. The model is the starter, untuned.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

FORMATS = ("rotated", "onnx", "int8", "bf16", "fp32")
_SHORTEST = 800


def stories(file: Path) -> Iterator[str]:
    """The stories of a file that have a page or more."""
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            story = line.strip()
            if story.startswith("{"):
                record = json.loads(story)
                story = str(record.get("story") or record.get("text") or "")
            if len(story) >= _SHORTEST:
                yield story


def main() -> None:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--stories", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=200, help="of each story")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    arguments = parser.parse_args()
    from creativewritinggpt.generation.quality import compare, show
    from creativewritinggpt.models.loading import load_model

    writer = load_model("starter")
    texts = [
        story for _, story in zip(range(arguments.stories), stories(arguments.file), strict=False)
    ]
    show([compare(writer, texts, name, tokens=arguments.tokens) for name in arguments.formats])


if __name__ == "__main__":
    main()
