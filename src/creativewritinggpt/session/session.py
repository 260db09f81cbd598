"""A writing session: a story and its file, the model that continues it, and the settings.

Nothing here prints or reads keys, so that a terminal and a server can drive the same session; what
the user should know goes to ``notify``. The model is loaded in the background. This module does not
import torch: the first prompt appears before that is done.
"""

from __future__ import annotations

import codecs
import dataclasses
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..console import counted
from ..data.text import count_words
from ..errors import InputError, RunError, UserError
from ..files import from_home, same_place, true_path
from ..generation.results import Generated, Piece, Scores, Token, best
from ..generation.sampling.settings import GenerationSettings, seeds_from, with_preset
from ..story.context import StoryView, complete, passage_tokens, setup_of, story_view
from ..story.draft import Imported
from ..story.exchange import ENDINGS, export_story, import_story
from ..story.file import FOLDER, StoryFile, free_path, is_story, story_file
from ..story.tree import Passage, Setup, State, Story

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

ALTERNATIVES = 6
"""Number of alternatives that are recorded per token, so that /probs can answer at once."""


@dataclasses.dataclass
class StyledModel:
    """A loaded model and the weights of its adapters, by folder."""

    loaded: LoadedModel
    adapters: dict[str, float]


Load = Callable[[str], StyledModel]


def imported(path: Path) -> Imported | None:
    """The story in a file of another program; None for a file of this one.

    Raises:
        InputError: The file can't be read, or is no story.
    """
    if path.suffix.lower() == ".json" and is_story(path):
        return None
    return import_story(path)


def import_file(path: Path) -> tuple[StoryFile, list[str]]:
    """The file for a story that is imported, and a remark where an earlier one has its name."""
    usual = Path(FOLDER) / f"{path.stem}.json"
    file = StoryFile(free_path(usual))
    if file.path == usual:
        return file, []
    return file, [f"{usual} is there already and stays; /load {usual} goes on with that"]


class Ordering(NamedTuple):
    """An order of drafts learnt from choices.

    Attributes:
        scores: A score for each text, higher for what the writer would rather take.
        sentence: What was learnt, and how sure it is.
    """

    scores: Scores
    sentence: str


Learn = Callable[[Story], Ordering | None]


@dataclasses.dataclass(eq=False)
class Session:
    """The state of a session.

    Attributes:
        file: The story's file, opened.
        story: The story in it.
        settings: The generation settings.
        load: Loads a model by name.
        loading: The first model, being loaded.
        model_name: Its name.
        preset_name: The preset that the settings began from.
        notify: Called with what the user should know.
        tokens_per_second: Speed of the last writing, all rows together.
        last_seed: The last random seed.
        tokens: The tokens of each passage written in this session, by its id.
        learn: Orders drafts by the choices of a story; None where they teach nothing yet.
    """

    file: StoryFile
    story: Story
    settings: GenerationSettings
    load: Load
    loading: Future[StyledModel]
    model_name: str
    preset_name: str | None = None
    notify: Callable[[str], None] = lambda text: None
    tokens_per_second: float = 0.0
    last_seed: int | None = None
    tokens: dict[int, list[Token]] = dataclasses.field(default_factory=dict)
    learn: Learn | None = None

    def __post_init__(self) -> None:
        self._named = self.file.path.exists()
        imported = not self._named and self.story.state != State()
        self._saved: object = None if imported else self.story.version
        self._exported: set[Path] = set()  # files that export may replace
        self._words: tuple[object, int] = (None, 0)
        self._view: tuple[object, StoryView] | None = None

    @property
    def model(self) -> StyledModel:
        """The model; waits until it is loaded.

        Ask for it before importing a module that imports torch or transformers: two threads must
        not import transformers at once.

        Raises:
            UserError: It could not be loaded.
        """
        if not self.loading.done():
            self.notify(f"loading {self.model_name}")
        return self.loading.result()

    @property
    def loaded(self) -> LoadedModel:
        """The loaded model without its adapters' weights."""
        return self.model.loaded

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self.loading.done() and self.loading.exception() is None

    @property
    def unsaved(self) -> bool:
        """Whether there are changes that are not on disk."""
        return self._saved != self.story.version

    @property
    def words(self) -> int:
        """Number of words of the story, cached until it changes."""
        if self._words[0] is not self.story.state:
            self._words = (self.story.state, count_words(self.story.text))
        return self._words[1]

    def view(self) -> StoryView:
        """The model's view of the story, cached until it changes."""
        key = (self.story.state, id(self.loaded), self.settings.seed)
        if self._view is None or self._view[0] != key:
            self._view = (key, story_view(self.loaded, self.story, seed=self.settings.seed))
        return self._view[1]

    def save(self) -> None:
        """Save the story.

        Raises:
            UserError: The file can't be written.
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
            self.notify(f"kept in {self.file.path}, after every change")

    def store_readings(self) -> None:
        """Keep what the model has read in the cache, so that a long story opens at once."""
        if self.ready:
            from ..models.forward.backends import store_readings

            store_readings()

    def take(self, file: StoryFile, story: Story) -> None:
        """Switch to another story, or to another file; the story before is saved first."""
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
        self.tokens, self._view = {}, None

    def open(self, path: Path) -> list[str]:
        """Switch to the story in a file; one of another program becomes a new story.

        World info alone joins the lore of the story that is open.

        Returns:
            Remarks: what the file is, and what of it could not be taken over.

        Raises:
            UserError: It can't be read, or the story before can't be saved.
        """
        found = imported(path)
        if found is None:
            file = StoryFile(path)
            self.take(file, file.open())
            title = self.story.state.title or path
            count = counted(len(self.story.path()), "passage")
            return [f"{title}: {count}", *self.story.remarks]
        if found.lore_only:
            return self.add_lore(found)
        file, remarks = import_file(path)
        self.take(file, found.story)
        return found.notes() + remarks

    def add_lore(self, found: Imported) -> list[str]:
        """Add the lore of an imported file to the story, in place of entries with the same keys.

        Returns:
            Remarks, as of :meth:`open`.

        Raises:
            InputError: It has none.
        """
        new = found.story.state.lore
        if not new:
            raise InputError(
                f"there is no lore in this {found.form}", "give world info, a lorebook"
            )
        keys = {(lore.keys, lore.always) for lore in new if lore.keys}
        kept = [
            lore
            for lore in self.story.state.lore
            if lore not in new and (lore.keys, lore.always) not in keys
        ]
        replaced = len(self.story.state.lore) - len(kept)
        self.story.set("lore", lore=(*kept, *new))
        change = f"; {replaced} of the same keys replaced" if replaced else ""
        lost = ", ".join(one for one in found.left_out if "lore" in one)
        said = [one for one in found.said if "lore" in one]
        return [
            f"lore ({len(new)}) of a {found.form} joined that of this story{change}; /undo takes "
            "it back",
            *([f"left out: {lost}"] if lost else []),
            *said,
        ]

    def save_as(self, name: str) -> None:
        """Save the story under a new name and go on there.

        Raises:
            UserError: The file exists or can't be written.
        """
        file = story_file(name)
        if file.path.exists():
            raise InputError(f"{file.path} is there already", "choose another name")
        file.open()
        try:
            file.save(self.story)
        except BaseException:
            file.close()
            raise
        self.take(file, self.story)

    def export(self, name: str) -> tuple[Path, bool]:
        """Write the current branch as a manuscript; see :func:`~..story.exchange.export_story`.

        Args:
            name: The file, or an ending alone for one named after the story. A file that exists is
                replaced at the second call only, a ``.json`` of another origin never.

        Returns:
            The file, and whether it replaced one.

        Raises:
            UserError: The file exists or can't be written.
        """
        path = from_home(name)
        if f".{name.lstrip('.')}" in ENDINGS:
            path = self.file.path.with_suffix(f".{name.lstrip('.')}")
        if same_place(path, self.file.path):
            raise InputError(f"{path} is the story's own file", "give another name")
        there, place = path.exists(), true_path(path)
        if there and place not in self._exported:
            if path.suffix.lower() == ".json":  # perhaps another story, with its whole tree
                raise InputError(f"{path} is there already", "give another name")
            self._exported.add(place)
            raise InputError(f"{path} is there already", "the same command again replaces it")
        export_story(self.story, path)
        self._exported.add(place)
        return path, there

    def use_preset(self, name: str) -> None:
        """Switch to a preset; seed, lengths and bans stay unless it names them."""
        self.settings = with_preset(self.settings, name)
        self.preset_name = name

    def use_model(self, name: str) -> None:
        """Switch to another model.

        Raises:
            UserError: It can't be loaded; the model before stays.
        """
        if not self.loading.done():
            self.loading.exception()  # waits
        self.notify(f"loading {name}")
        model = self.load(name)
        self.loading = Future()
        self.loading.set_result(model)
        self.model_name = name

    def new_seed(self) -> int:
        """The seed of the settings, or a random one that is short enough to be typed."""
        seed = self.settings.seed
        return secrets.randbelow(1_000_000) if seed is None else seed

    def write(
        self,
        parent: int | None,
        seeds: Sequence[int],
        *,
        show: Callable[[str], None] | None = None,
        stopped: Callable[[], bool] | None = None,
        adapters: bool = True,
    ) -> list[tuple[Passage | None, Generated]]:
        """Write one passage per seed after ``parent`` and add them to the tree, not to the branch.

        Args:
            parent: The passage before them; the last one by default.
            seeds: One per passage; with ``best_of`` and one seed the best of so many is kept.
            show: Called with the new text of the first passage.
            stopped: Asked between tokens; True ends the writing and keeps what is there.
            adapters: Whether the adapters are on; recorded with the passages.

        Returns:
            The passages, None where the model wrote nothing, and the engine's results.
        """
        model = self.model
        from ..generation import engine
        from ..generation.decoder import Request

        view = story_view(model.loaded, self.story, parent, self.settings.seed)
        settings = self.settings
        choose = settings.best_of if len(seeds) == 1 else None
        if choose:
            seeds = seeds_from(seeds[0], choose)
            self.notify(f"writing {choose}, of which the best is kept")
        requests = [Request(view.prompt, seed, view.memory, view.note) for seed in seeds]

        def show_first(piece: Piece) -> None:
            if show is not None and piece.index == 0 and not choose:
                show(complete(piece.text) if piece.result else piece.text)

        results = engine.collect(
            engine.compose(
                model.loaded, requests, settings, alternatives=ALTERNATIVES, warn=self.notify
            ),
            show=show_first,
            stopped=stopped,
        )
        if choose and choose > 1:
            results = best(results, 1, *self._ranking())
        if choose and show is not None:
            show(results[0].text)
        self.last_seed = results[-1].seed
        self.tokens_per_second = sum(result.tokens_per_second for result in results)
        setup = self._setup(view, model.adapters if adapters else {})
        return [(self._keep(parent, result, setup, view.start), result) for result in results]

    def ordering(self) -> Ordering | None:
        """How drafts are ordered by the writer's choices; None where they teach nothing yet."""
        return self.learn(self.story) if self.learn is not None else None

    def _ranking(self) -> tuple[str, Scores | None]:
        """What ``best_of`` ranks by."""
        if self.settings.rank_by != "taste":
            return self.settings.rank_by, None
        ordering = self.ordering()
        if ordering is None:
            self.notify("your choices teach nothing yet: ranked by varied instead")
            return "varied", None
        return "taste", ordering.scores

    def tokens_of(self, passage: Passage) -> list[Token]:
        """The tokens of a passage with their statistics, recorded or computed by the model now."""
        if passage.id not in self.tokens:
            self.tokens[passage.id] = passage_tokens(self.loaded, self.story, passage, ALTERNATIVES)
        return self.tokens[passage.id]

    def replace_token(self, passage: Passage, index: int, choice: int) -> str:
        """Replace a token of the last passage by an alternative; what followed it is set aside.

        Args:
            passage: The last passage.
            index: Index of the token.
            choice: Index among its alternatives.

        Returns:
            The new end of the story: the passage up to the token, and the alternative.

        Raises:
            InputError: The alternative is no text of its own.
        """
        tokens = self.tokens_of(passage)
        others = [one for one in tokens[index].before or [] if one.id != tokens[index].id]
        chosen = others[choice].text if others else "\ufffd"
        if "\ufffd" in chosen or chosen.startswith("<|"):
            raise InputError("that alternative is no text of its own", "/probs lists the others")
        # An incomplete character at the end is left out.
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        before = decoder.decode(b"".join(token.bytes for token in tokens[:index]))
        parent = passage.parent
        if before:
            kept = self.story.offer(
                before, parent, by=passage.by, setup=passage.setup, seed=passage.seed,
                start=passage.start, copy_of=passage.id,
            )  # fmt: skip
            self.tokens[kept.id] = tokens[:index]
            parent = kept.id
        self.story.write(chosen, parent, did="pick")
        return before + chosen

    def _setup(self, view: StoryView, adapters: dict[str, float]) -> Setup:
        from ..models.forward.backends import backend_for

        weights = backend_for(self.loaded, self.settings.weights).name
        return setup_of(self.loaded.name, adapters, self.preset_name, self.settings, weights, view)

    def _keep(
        self, parent: int | None, result: Generated, setup: Setup, start: int
    ) -> Passage | None:
        text = complete(result.text)
        if not text:
            return None
        passage = self.story.offer(
            text, parent, by="model", setup=setup, seed=result.seed, start=start
        )
        self.tokens[passage.id] = result.tokens
        return passage
