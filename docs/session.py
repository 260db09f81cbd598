"""Renew the session in ``docs/writing.md`` and its picture: both are recorded, not written.

``python docs/session.py`` types the lines below into the real command in a pseudo-terminal, with
the starter, and puts what the terminal shows into the page, and one moment of it into
``docs/images/session.svg``. It needs the packages of the test group. The text that the model
writes can differ from one machine to another.
"""

import contextlib
import html
import itertools
import os
import re
import sys
import tempfile
from pathlib import Path

import pexpect
import pyte

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "writing.md"
PICTURE = ROOT / "docs" / "images" / "session.svg"
START, END = "<!-- session: made by docs/session.py -->", "<!-- end of session -->"
COLUMNS, ROWS = 92, 36
COMMAND = (
    "cwgpt generate --model starter --story ferry.json --preset steady --seed 7 --max-new-tokens 48"
)
PHOTO = "photo"  # not typed: the moment of the picture
EDITOR = "sed -i s/old.man/ferryman/"  # stands for a writer's
LINES = [
    "/title The Night Ferry",
    "/memory A quiet novel about Mara, who goes home by ferry to her father's lighthouse.",
    "/chapter One: The Harbour",
    '"You will be cold out here," said the old man. Mara put the letter back into her coat.',
    "",
    "/alt 2",
    "/pick 2",
    "/heat",
    "/probs 1",
    PHOTO,
    "/why coat",
    "/pick 3.1",
    "/lore Ilse, sister = Ilse is Mara's younger sister. She stayed on the island.",
    "/chapter Two: The Island",
    'Ilse waited on the pier with a lamp in her hand. "You took your time," she said.',
    "/branch harsher",
    "/note [angry, short sentences]",
    "/retry",
    "/goto main",
    "/note -",
    "/goto harsher",
    "/chapter Three: The Lamp",
    "The stairs of the lighthouse were wet. At the top",
    "",
    "/undo",
    "/redo",
    "/edit",
    "/branches",
    "/context",
    "/stats",
    "/export epub",
    "/quit",
]

INK, PAPER = "#d8dee9", "#1f2430"
NAMES = {
    "black": "#000000", "red": "#bf616a", "green": "#a3be8c", "brown": "#ebcb8b",
    "blue": "#81a1c1", "magenta": "#b48ead", "cyan": "#88c0d0", "white": "#e5e9f0",
}  # fmt: skip
# A cell of the picture, in pixels.
WIDE, HIGH, EDGE = 8.4, 19, 16


class Terminal:
    """The command in a pseudo-terminal, and what it shows."""

    def __init__(self, folder: str) -> None:
        environment = {**os.environ, "TERM": "xterm-256color", "EDITOR": EDITOR}
        environment.pop("NO_COLOR", None)
        words = COMMAND.split()[1:]
        self.child = pexpect.spawn(
            sys.executable, ["-m", "creativewritinggpt", *words], cwd=folder, env=environment,
            dimensions=(ROWS, COLUMNS), encoding="utf-8", timeout=300,
        )  # fmt: skip
        self.screen = pyte.HistoryScreen(COLUMNS, ROWS, history=5000)
        # The prompt asks where the cursor is, to know how much room there is below.
        self.screen.write_process_input = self.child.send
        self.stream = pyte.Stream(self.screen)

    def read(self, seconds: float = 0.3) -> None:
        """Take what comes, until nothing comes for so long."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                self.stream.feed(self.child.read_nonblocking(65536, timeout=seconds))

    def type(self, line: str) -> None:
        """Type a line and wait for the next prompt, or the end."""
        # As a paste, so that completion does not come between.
        self.child.send(f"\x1b[200~{line}\x1b[201~\r")
        self.read(1.0)
        while self.child.isalive() and not self.waiting():
            self.read(0.2)

    def waiting(self) -> bool:
        """Whether there is an empty prompt with its status line."""
        shown = [line.rstrip() for line in self.screen.display]
        return ">" in shown and "window" in "\n".join(shown[shown.index(">") :])

    def lines(self) -> list[str]:
        """All that was shown so far."""
        gone = ["".join(row[x].data for x in range(COLUMNS)) for row in self.screen.history.top]
        return [line.rstrip() for line in (*gone, *self.screen.display)]


def picture(screen: pyte.Screen) -> str:
    """The screen as SVG: every word in its cells, so that no font can move it."""
    width, height = COLUMNS * WIDE + 2 * EDGE, ROWS * HIGH + 2 * EDGE + 18
    boxes, words = [], []
    for y in range(ROWS):
        cells = [screen.buffer[y][x] for x in range(COLUMNS)]
        top = EDGE + 18 + y * HIGH
        for back, run in itertools.groupby(
            range(COLUMNS), lambda x, cells=cells: colours(cells[x])[1]
        ):
            places = list(run)
            if back != PAPER:
                boxes.append(
                    f'<rect x="{EDGE + places[0] * WIDE:.1f}" y="{top}" '
                    f'width="{len(places) * WIDE:.1f}" height="{HIGH}" fill="{back}"/>'
                )
        for start, end in spans(cells):
            text = "".join(cell.data for cell in cells[start:end])
            front, _ = colours(cells[start])
            style = ' font-weight="bold"' if cells[start].bold else ""
            style += ' text-decoration="underline"' if cells[start].underscore else ""
            words.append(
                f'<text x="{EDGE + start * WIDE:.1f}" y="{top + 14}" fill="{front}"{style} '
                f'textLength="{(end - start) * WIDE:.1f}">{html.escape(text)}</text>'
            )
    dots = "".join(
        f'<circle cx="{EDGE + 6 + 18 * place}" cy="16" r="5" fill="{colour}"/>'
        for place, colour in enumerate(("#bf616a", "#ebcb8b", "#a3be8c"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" font-size="14" '
        "font-family=\"'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace\">\n"
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>\n{dots}\n'
        + "\n".join((*boxes, *words))
        + "\n</svg>\n"
    )


def colours(cell: pyte.screens.Char) -> tuple[str, str]:
    """Text and background of a cell."""

    def shade(name: str, usual: str) -> str:
        if name == "default":
            return usual
        return NAMES.get(name, f"#{name}" if re.fullmatch("[0-9a-f]{6}", name) else usual)

    front, back = shade(cell.fg, INK), shade(cell.bg, PAPER)
    return (back, front) if cell.reverse else (front, back)


def spans(cells: list[pyte.screens.Char]) -> list[tuple[int, int]]:
    """Runs of cells that hold a word in one style."""
    found: list[tuple[int, int]] = []
    for x, cell in enumerate(cells):
        if not cell.data.strip():
            continue
        same = (
            found and found[-1][1] == x and cells[x - 1]._replace(data="") == cell._replace(data="")
        )
        if same:
            found[-1] = (found[-1][0], x + 1)
        else:
            found.append((x, x + 1))
    return found


def main() -> None:
    """Record, and write both."""
    with tempfile.TemporaryDirectory() as folder:
        terminal = Terminal(folder)
        while not terminal.waiting():
            terminal.read(0.2)
        for line in LINES:
            if line == PHOTO:
                PICTURE.write_text(picture(terminal.screen), "utf-8")
            else:
                terminal.type(line)
        terminal.child.expect(pexpect.EOF)
        text = "\n".join(terminal.lines()).strip()
    text = re.sub(r"\n{3,}", "\n\n", text)
    block = f"{START}\n```\n$ {COMMAND}\n{text}\n```\n{END}"
    page = PAGE.read_text("utf-8")
    page = re.sub(re.escape(START) + ".*?" + re.escape(END), lambda _: block, page, flags=re.DOTALL)
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
