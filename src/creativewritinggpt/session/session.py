"""A session: a story on disk, the model that continues it, and how it writes.

It knows nothing of keys and prompts; the terminal and the plain loop both drive it by lines. The
model is loaded in the background, so that the writer can read and type meanwhile. Every change is
saved before the next line is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RunError, UserError
from ..generation.results import Token
from ..generation.sampling.presets import preset
from ..generation.sampling.settings import GenerationSettings
from ..story.context import StoryView, story_view
from ..story.file import StoryFile, free_path
from ..story.tree import Story
from .screen import Screen
from .signals import Signals

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

# Settings that are the writer's choice and not a matter of mood.
_KEPT = ("seed", "max_new_tokens", "min_new_tokens", "stop", "banned", "logit_bias", "best_of",
         "rank_by", "weights")  # fmt: skip


@dataclasses.dataclass
class Voice:
    """A model that is ready to write, and the weights of its adapters."""

    writer: LoadedModel
    adapters: dict[str, float]


Load = Callable[[str], Voice]
Explain = Callable[["LoadedModel", str, str], str]


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
        self.exported: set[Path] = set()  # files that /export may replace
        self._saved: object = story.version
        self._named = file.path.exists()
        self._words: tuple[object, int] = (None, 0)
        self._seen: tuple[object, StoryView] | None = None

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
    def writer(self) -> LoadedModel:
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

    def seen(self) -> StoryView:
        """What the model sees of the story now; see :func:`.story.context.assemble`."""
        key = (self.story.state, id(self.writer))
        if self._seen is None or self._seen[0] != key:
            self._seen = (key, story_view(self.writer, self.story))
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
        if not self._named and not self.file.locked:
            self.file = StoryFile(free_path(self.file.path))
        try:
            self.file.save(self.story)
        except (OSError, ValueError) as error:  # a drive that is gone, say
            raise RunError(f"{self.file.path} could not be written: {error}") from error
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
            try:
                self.save()
            except UserError:
                file.close()
                raise
        self.file.close()
        self.file, self.story = file, story
        self._saved = story.version if file.path.exists() else None
        self._named = file.path.exists()
        self.tokens, self.offered, self._seen = {}, [], None

    def use_preset(self, name: str) -> None:
        """Write with a preset; seed, length and bans stay where it says nothing of them."""
        chosen = preset(name)
        kept = {key: getattr(self.settings, key) for key in _KEPT if key not in chosen.values}
        self.settings = dataclasses.replace(chosen.settings(), **kept)
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

    def head(self, number: int, label: str) -> None:
        """The heading of a passage that /pick can take."""
        self.screen.say()
        self.screen.say(f"{number}  {label}", "bold")

    def offer(self, passages: list[int], labels: list[str], shown: int = 0) -> None:
        """Show passages by number for /pick; the first ``shown`` were shown as they came."""
        self.offered = passages
        for number, (passage, label) in enumerate(zip(passages, labels, strict=True), 1):
            if number > shown:
                self.head(number, label)
                self.screen.flow(self.story.passages[passage].text.strip("\n"))
            self.screen.end_flow()
        if passages:
            self.screen.say()
            self.screen.note("/pick NUMBER takes one")

    @property
    def words(self) -> int:
        """Words of the story; counted again only when it has changed."""
        if self._words[0] is not self.story.state:
            self._words = (self.story.state, len(self.story.text.split()))
        return self._words[1]
