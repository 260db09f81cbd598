"""A studio of a test: what the rooms of runs need of one, without a model or a page."""

import threading
import time
from pathlib import Path

from creativewritinggpt.config.fields import MachineSettings
from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.story import choices
from creativewritinggpt.story.file import StoryFile
from creativewritinggpt.story.tree import Setup, Story

SHORT = "It rained. He sat. The lamp burned low. Nobody came."
LONG = "While the rain went on over the roofs, the keeper counted ships that had not come back"
SETUP = Setup("tiny", {}, None, {}, "", "")


def story_of_picks(path: Path, count: int) -> Path:
    """A story whose writer takes the draft of short sentences each time."""
    story = Story()
    story.write("It was late.")
    for number in range(count):
        parent = story.state.head
        texts = [f" {SHORT} {number}.", f" {LONG} of {number} nights and {number} days."]
        drafts = [
            story.offer(text, parent, by="model", setup=SETUP, seed=number).id
            for text in (texts if number % 2 else texts[::-1])
        ]
        choices.offer(story, drafts, "studio")
        choices.pick(story, drafts, drafts[1 - number % 2], "studio")
    file = StoryFile(path)
    file.open()
    file.save(story)
    file.close()
    return path


class Ids:
    def __init__(self):
        self.paths = {}

    def id(self, path):
        key = f"id{len(self.paths)}"
        for known, value in self.paths.items():
            if value == Path(path):
                return known
        self.paths[key] = Path(path)
        return key

    def path(self, id):
        if id not in self.paths:
            raise InputError("there is no such file")
        return self.paths[id]


class Events:
    def __init__(self):
        self.seen = []

    def publish(self, kind, **fields):
        self.seen.append({"kind": kind, **fields})


class Desk:
    def __init__(self, text=""):
        self.lock, self.text, self.revision = threading.RLock(), text, 1
        self.story, self.tokens, self.settings = Story(), {}, GenerationSettings()

    def index(self, offset16):
        return len(self.text.encode("utf-16-le")[: 2 * offset16].decode("utf-16-le"))


class Engine:
    def __init__(self):
        self.model, self.name = None, "starter"
        self.machine = MachineSettings(device="cpu", num_workers=1)


class SmallStudio:
    """Where the rooms of runs find files, ids, events and a text."""

    def __init__(self, root, text=""):
        self.root, self.outputs, self.stories = root, root / "outputs", root / "stories"
        self.ids, self.events, self.desk = Ids(), Events(), Desk(text)
        self.engine = Engine()


def wait_for(runs, record, seconds=60.0):
    """Until a run has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        runs.look()
        if record.ended is not None:
            return record
        time.sleep(0.05)
    raise AssertionError(f"{record.id} did not end: {runs.log(record.id)}")
