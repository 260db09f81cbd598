"""A session: a story on disk, the model that continues it, and how it writes.

It knows nothing of keys and prompts; the terminal and the plain loop both drive it by lines. The
model is loaded in the background, so that the writer can read and type meanwhile. Every change is
saved before the next line is asked for.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, UserError
from ..presets import preset
from ..results import Token
from ..settings import GenerationSettings
from ..story.context import Seen, assemble
from ..story.file import StoryFile
from ..story.tree import Story
from .screen import Screen
from .signals import Signals

if TYPE_CHECKING:
    from ...models.writer import Writer

FOLDER = "stories"


@dataclasses.dataclass
class Voice:
    """A model that is ready to write, and the weights of its adapters."""

    writer: Writer
    adapters: dict[str, float]


Load = Callable[[str], Voice]
Explain = Callable[["Writer", str, str], str]


class Session:
    """What the commands work on.

    Args:
        file: The story's file, opened.
        story: The story in it.
        settings: How to write.
        screen: Where things are shown.
        load: Loads a model by name.
        loading: The first model, on its way.
        model: Its name.
        preset_name: The preset that the settings began from.
        explain: Says why the model wrote a word: ``explain(writer, text, word)``.
    """

    def __init__(
        self,
        file: StoryFile,
        story: Story,
        settings: GenerationSettings,
        screen: Screen,
        load: Load,
        loading: Future[Voice],
        model: str,
        preset_name: str | None = None,
        explain: Explain | None = None,
    ) -> None:
        self.file = file
        self.story = story
        self.settings = settings
        self.screen = screen
        self.load = load
        self.loading = loading
        self.model = model
        self.preset_name = preset_name
        self.explain = explain
        self.signals = Signals()
        self.leaving = False
        self.warned = False
        self.tokens_per_second = 0.0
        self.last_seed: int | None = None
        # Tokens of the passages of this session, by passage, for probabilities.
        self.tokens: dict[int, list[Token]] = {}
        self.offered: list[int] = []  # passages that /pick can take
        self.labels: list[str] = []  # what to call them
        self._saved: object = story.version
        self._named = file.path.exists()
        self._seen: tuple[object, Seen] | None = None

    @property
    def voice(self) -> Voice:
        """The model; waits for it.

        To be asked for before anything with torch or transformers in it is imported: two threads
        that import transformers at once get in each other's way.

        Raises:
            UserError: It could not be loaded.
        """
        if not self.loading.done():
            self.screen.note(f"loading {self.model}")
        return self.loading.result()

    @property
    def writer(self) -> Writer:
        """The model alone."""
        return self.voice.writer

    @property
    def ready(self) -> bool:
        """Whether the model is there."""
        return self.loading.done() and self.loading.exception() is None

    @property
    def unsaved(self) -> bool:
        """Whether there are changes that are not on disk."""
        return self._saved != self.story.version

    def seen(self) -> Seen:
        """What the model sees of the story now; see :func:`.story.context.assemble`."""
        key = (self.story.state, id(self.writer))
        if self._seen is None or self._seen[0] != key:
            self._seen = (key, assemble(self.writer, self.story))
        return self._seen[1]

    def autosave(self) -> None:
        """Save if anything changed; what goes wrong is shown, and tried again next time."""
        if not self.unsaved:
            return
        try:
            self.save()
        except UserError as error:
            self.screen.error(error)

    def save(self) -> None:
        """Save.

        Raises:
            UserError: It could not be done.
        """
        if not self._named and not self.file.taken:
            self.file = StoryFile(free_path(self.file.path))
        self.file.save(self.story)
        self._saved = self.story.version
        if not self._named:
            self._named = True
            self.screen.note(f"kept in {self.file.path}, after every change")

    def may_leave(self) -> bool:
        """Save what is not saved; False the first time that this fails."""
        self.leaving = False
        if self.unsaved:
            try:
                self.save()
            except UserError as error:
                self.screen.error(error)
                if not self.warned:
                    self.warned = True
                    self.screen.note("not saved: /save FILE keeps it elsewhere; again to leave")
                    return False
        return True

    def take(self, file: StoryFile, story: Story) -> None:
        """Go on with another story, or this one in another file; the one before is left saved."""
        if self.unsaved and story is not self.story:
            self.save()
        self.file.close()
        self.file, self.story = file, story
        self._saved = story.version if file.path.exists() else None
        self._named = file.path.exists()
        self.tokens, self.offered, self._seen = {}, [], None

    def use_preset(self, name: str) -> None:
        """Write with a preset; a seed that was set stays."""
        chosen = preset(name).settings()
        self.settings = dataclasses.replace(chosen, seed=self.settings.seed)
        self.preset_name = name

    def use_model(self, name: str) -> None:
        """Write with another model.

        Raises:
            UserError: It can't be loaded; the one before stays.
        """
        if not self.loading.done():
            self.loading.exception()  # waits
        self.screen.note(f"loading {name}")
        voice = self.load(name)
        self.loading = Future()
        self.loading.set_result(voice)
        self.model = name

    def offer(self, passages: list[int], labels: list[str]) -> None:
        """Show passages by number for /pick."""
        self.offered, self.labels = passages, labels
        for number, (passage, label) in enumerate(zip(passages, labels, strict=True), 1):
            self.screen.say()
            self.screen.say(f"{number}  {label}", "bold")
            self.screen.flow(self.story.passages[passage].text.strip("\n"))
            self.screen.end_flow()
        self.screen.say()
        self.screen.note("/pick NUMBER takes one")

    def status(self) -> str:
        """One line: model, preset, seed, how full the window is, tokens per second, file."""
        name = "/".join(Path(self.model).parts[-2:])
        parts = [name if self.ready else f"loading {name}"]
        if self.ready:
            weights = [weight for weight in self.voice.adapters.values() if weight != 1]
            parts += [f"style {weight:g}" for weight in weights]
        parts += [f"preset {self.preset_name}"] if self.preset_name else []
        if self.settings.seed is not None:
            parts.append(f"seed {self.settings.seed}")
        else:
            parts.append("new seeds" if self.last_seed is None else f"new seeds, {self.last_seed}")
        if self.ready:
            try:
                seen = self.seen()
                parts.append(f"window {seen.fill:.0%} of {seen.window:,}")
            except UserError:
                parts.append("window over-full: shorten memory or note")
        if self.tokens_per_second:
            parts.append(f"{self.tokens_per_second:.0f} tokens/s")
        parts.append("NOT SAVED" if self.unsaved and self._named else self.file.path.name)
        return " · ".join(parts)


def new_path() -> Path:
    """A file for a new story, named after the day."""
    return free_path(Path(FOLDER) / f"{datetime.date.today().isoformat()}.json")


def free_path(path: Path) -> Path:
    """``path``, or with a number where there is a file or another session has taken it."""
    number, place = 2, path
    while place.exists() or place.with_name(f".{place.name}.lock").exists():
        place = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return place


def story_file(name: str) -> StoryFile:
    """The file of a story that the writer named.

    Raises:
        InputError: The name does not end in ``.json``.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() != ".json":
        raise InputError(
            f"a story's file ends in .json, and {name} does not",
            "bring text in with /load inside a session, write it out with /export",
        )
    return StoryFile(path)
