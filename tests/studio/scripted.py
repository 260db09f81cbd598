"""The real ``cwgpt`` command whose model takes a given time for each step: a process of its own."""

import sys
import time
from typing import Any

from creativewritinggpt.cli.main import main


def slow_down(seconds: float) -> None:
    """Let every step of the decoder take this much longer."""
    from creativewritinggpt.generation.decoder import Decoder  # imports torch

    advance = Decoder.advance

    def slowly(decoder: Any) -> Any:
        time.sleep(seconds)
        return advance(decoder)

    Decoder.advance = slowly  # type: ignore[method-assign]


if __name__ == "__main__":
    delay = float(sys.argv[1])
    if delay:
        slow_down(delay)
    sys.exit(main(sys.argv[2:]))
