"""``python -m creativewritinggpt`` is ``cwgpt``."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
