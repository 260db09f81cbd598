"""The studio: what its rooms share, and the story that is open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.fields import DEFAULT_MODEL, MachineSettings
from ..errors import UserError
from .shared import Shared

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel


class Studio(Shared):
    """The studio; nothing is loaded before :meth:`start`.

    Args:
        root: The working folder.
        story: File of the story; the last one by default, or a new one.
        model: Name of the model.
        machine: Device, precision, threads, caches.
        load: Loads a model; for tests.

    Attributes:
        desk: The story that is open.
    """

    def __init__(
        self,
        root: Path,
        *,
        story: Path | None = None,
        model: str = DEFAULT_MODEL,
        machine: MachineSettings | None = None,
        load: Callable[[str, MachineSettings], LoadedModel] | None = None,
    ) -> None:
        from .story_desk import Desk
        from .writing import read_ahead

        super().__init__(root, model=model, machine=machine, load=load)
        self.desk = Desk(self, read_ahead)
        self.engine.on_change = self.desk.warm
        self.tabs.on_came = self.engine.hurry
        self._open_first(story)

    def _open_first(self, story: Path | None) -> None:
        """Open the story of the command line, or the last one; a new one where that fails."""
        last = self.memory.get("story")
        path = story if story is not None else Path(last) if isinstance(last, str) else None
        if path is not None and (story is not None or path.is_file()):
            try:
                for remark in self.desk.open(path):
                    self.note(remark, lasting=True)
            except UserError as error:
                what = error.message.replace(str(path), path.name)
                text = f"{what}; it stays as it is, and this is a new story"
                self.note(text, "error", error.advice, lasting=True)

    def start(self, patience: float = 0.0) -> None:
        """Load the model, in a thread.

        Importing PyTorch holds up all other threads; begun at once, it would cost a page that is
        opened half a second and more.

        Args:
            patience: Longest time that a page has to open before, in seconds.
        """
        if self.first_model:
            self.engine.load(self.first_model, patience=patience)

    def close(self, seconds: float = 5.0) -> None:
        """Stop the work, save, and end; may be called twice."""
        self.desk.close(seconds)
        self.engine.close(seconds)
        self.desk.end()
