"""`python generate.py` is `cwgpt generate`, for those who know the original's commands."""

import sys
from pathlib import Path

# This folder holds an evaluate.py, which would shadow the library of that name.
sys.path[:] = [
    entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent
]

from creativewritinggpt.cli.main import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main(["generate", *sys.argv[1:]]))
