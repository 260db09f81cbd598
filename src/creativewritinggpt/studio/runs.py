"""Runs of the studio: training, evaluation and analysis as child processes that outlive the page.

A run is a folder below ``outputs/.studio/runs`` with ``run.json`` (what was asked for, the child's
pid and start time, how it ended), the child's output and its log. All that is known of a run is
read from there and from the run's output folder, so a studio that was closed or killed finds its
runs again. One thread looks after the runs that go on and publishes ``run`` events.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import console
from ..errors import InputError, UserError
from ..files import disk_errors, write_json
from ..training.run_files import BEST, CHECKPOINTS, FINAL, MANIFEST
from .answers import Conflict, NotFound, without_folders
from .curves import Curves
from .processes import LOG, OUTPUT, Identity, Processes
from .uploads import KEPT_SECONDS, remove_old

RECORD, ASIDE = "run.json", "aside"
PASSING = ("inspect", "estimate", "originality")
"""Kinds of runs that only answer a question; they are not listed."""

REPORTS = {"evaluate": "evaluation.html", "analyze": "report.html"}
"""The page of a run, by its kind."""

_POLL = 0.5
"""Seconds between two looks at the runs."""

_LOG_TAIL = 200_000
"""Bytes of a log that are shown."""

_STARTING = "starting Python and its libraries"
_RESUMED = "going on from step"
_PHASE_LINE = re.compile(rf"\S.*{re.escape(console.PHASE)}")
_KILLED = "the process ended without a word, as when memory runs out or it is killed"
_DISK = re.compile(r"no space left|disk (?:is )?full", re.IGNORECASE)


@dataclasses.dataclass
class RunRecord:
    """What stands in ``run.json``.

    Attributes:
        id: Name of its folder.
        kind: ``train``, ``evaluate``, ``analyze`` or one of :data:`PASSING`.
        name: For people.
        created: Seconds since the epoch.
        words: Arguments of Python: what is run.
        output: Folder of the results; empty for passing runs.
        about: What the page shows of it: model, recipe, settings, files.
        pid: Of the child.
        started: When the child started, by the system.
        began: When it was started (again), by this machine's clock.
        stopping: Whether it was asked to stop.
        log_from: Bytes of the log that earlier attempts have written.
        ended: None while it runs; else ``state``, ``message``, ``advice``, ``seconds``.
    """

    id: str
    kind: str
    name: str
    created: float
    words: list[str]
    output: str = ""
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    pid: int = 0
    started: float = 0.0
    began: float = 0.0
    stopping: bool = False
    log_from: int = 0
    ended: dict[str, Any] | None = None

    @property
    def identity(self) -> Identity:
        """Of its child."""
        return Identity(self.pid, self.started)


class Runs:
    """All runs of one studio.

    Args:
        studio: Where they lie (``outputs``, ``root``), ``ids`` and ``events``.
        watch: Whether a thread looks after them; else :meth:`look` does.
    """

    def __init__(self, studio: Any, *, watch: bool = True) -> None:
        self.studio = studio
        self.folder: Path = studio.outputs / ".studio" / "runs"
        self.processes = Processes()
        self._records: dict[str, RunRecord] = {}
        self._curves: dict[str, Curves] = {}
        self._said: dict[str, str] = {}
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._watch = watch
        self._thread: threading.Thread | None = None
        self._load()
        self._look_after()

    def _load(self) -> None:
        # A run that could not be started, or whose studio was killed before, has no record.
        remove_old(path for path in self.folder.glob("*") if not (path / RECORD).exists())
        for path in sorted(self.folder.glob(f"*/{RECORD}")):
            record = _read(path)
            if record is None:
                continue
            old = record.created < time.time() - KEPT_SECONDS
            if record.kind in PASSING and record.ended is not None and old:
                shutil.rmtree(path.parent, ignore_errors=True)
                continue
            self._records[record.id] = record

    def _look_after(self) -> None:
        """Start the thread, where a run goes on and none does yet."""
        with self._lock:
            going = any(record.ended is None for record in self._records.values())
            if self._watch and going and self._thread is None:
                self._thread = threading.Thread(target=self._watching, daemon=True, name="runs")
                self._thread.start()

    def _watching(self) -> None:
        while True:
            self._wake.wait(_POLL)
            self._wake.clear()
            with contextlib.suppress(OSError):
                self.look()
            with self._lock:
                if all(record.ended is not None for record in self._records.values()):
                    self._thread = None
                    return

    def look(self) -> None:
        """Notice what is new in the runs that go on, and publish it."""
        for record in self.records():
            if record.ended is None:
                self.curves(record.id).follow()
                self._settle(record)
            elif record.id not in self._said:
                continue
            self._publish(record)

    def _publish(self, record: RunRecord) -> None:
        shown = self.show(record)
        said = json.dumps({name: value for name, value in shown.items() if name != "seconds"})
        if self._said.get(record.id) != said:
            self._said[record.id] = said
            self.studio.events.publish("run", run=shown)

    def _settle(self, record: RunRecord) -> None:
        """Write down how a run has ended, where it has."""
        with self._lock:
            if record.ended is not None or self.processes.alive(record.identity):
                return
            record.ended = self._end_of(record)
            with contextlib.suppress(Exception):  # on a full disk it is found again each time
                self._save(record)
            self.curves(record.id).follow()

    def _end_of(self, record: RunRecord) -> dict[str, Any]:
        now, result = time.time(), self.result(record.id)
        if result is not None:  # it may have ended while no studio was there
            with contextlib.suppress(OSError):
                now = min(now, (self.place(record.id) / OUTPUT).stat().st_mtime)
        seconds = max(0.0, now - record.began)
        end: dict[str, Any] = {"state": "done", "message": "", "advice": None, "seconds": seconds}
        if result is not None:
            if result.get("outcome") == "interrupted":
                end |= {"state": "stopped", "message": "stopped; everything is saved"}
            return end
        message, advice = _error_in(self.log(record.id, record.log_from))
        if record.stopping and (not message or message == "stopped"):
            return end | {"state": "stopped", "message": "stopped"}
        if message == "stopped":
            return end | {"state": "stopped", "message": "stopped from outside the studio"}
        if not message:
            message, advice = _KILLED, "its log has the last lines that it wrote"
            if self.resumable(record):
                advice = "Resume goes on from the last checkpoint"
        if advice is None and _DISK.search(message):
            advice = "free some space, then resume; nothing that was saved is lost"
        return end | {"state": "failed", "message": message, "advice": advice}

    def records(self) -> list[RunRecord]:
        """All runs, newest first."""
        with self._lock:
            return sorted(self._records.values(), key=lambda record: -record.created)

    def get(self, id: str) -> RunRecord:
        """The run of an id.

        Raises:
            NotFound: There is none.
        """
        with self._lock:
            record = self._records.get(id)
        if record is None:
            raise NotFound("there is no such run", "it may have been set aside; reload the list")
        return record

    def place(self, id: str) -> Path:
        """The folder of a run's own files."""
        return self.folder / id

    def new_id(self, kind: str) -> str:
        """An id for a new run, with its folder."""
        id = f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        with disk_errors(self.folder):
            self.place(id).mkdir(parents=True)
        return id

    def start(
        self, id: str, kind: str, name: str, words: Sequence[str], *, output: Path | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> RunRecord:  # fmt: skip
        """Start a run in the folder that :meth:`new_id` made.

        Args:
            id: The run's.
            kind: As in :class:`RunRecord`.
            name: For people.
            words: Arguments of Python.
            output: Folder of the results.
            about: What the page shows of it.

        Raises:
            RunError: No process can be started, or the disk is full.
        """
        record = RunRecord(
            id, kind, name, time.time(), list(words), "" if output is None else str(output),
            dict(about or {}),
        )  # fmt: skip
        self._launch(record, record.words)
        with self._lock:
            self._records[id] = record
        self._after_start(record)
        return record

    def _launch(self, record: RunRecord, words: Sequence[str]) -> None:
        record.began, record.ended, record.stopping = time.time(), None, False
        with contextlib.suppress(OSError):
            record.log_from = (self.place(record.id) / LOG).stat().st_size
        # Before the child, so that no child is ever without a record.
        self._save(record)
        identity = self.processes.start(words, self.place(record.id), self.studio.root)
        record.pid, record.started = identity.pid, identity.started
        try:
            self._save(record)
        except BaseException:
            self.processes.end(identity)
            raise

    def _after_start(self, record: RunRecord) -> None:
        self._said.pop(record.id, None)
        self._publish(record)
        self._look_after()

    def _save(self, record: RunRecord) -> None:
        path = self.place(record.id) / RECORD
        with disk_errors(path):
            write_json(path, {"format": 1, **dataclasses.asdict(record)})

    def stop(self, id: str) -> RunRecord:
        """Ask a run to save and end; a second time, to end at once."""
        record = self.get(id)
        with self._lock:
            self._settle(record)
            if record.ended is None and record.stopping and record.kind != "train":
                self.processes.end(record.identity)  # it has nothing to save
                self._settle(record)
            elif record.ended is None:
                record.stopping = True
                with contextlib.suppress(UserError):  # a full disk must not keep it running
                    self._save(record)
                self.processes.interrupt(record.identity)
        self._publish(record)
        self._wake.set()
        return record

    def end(self, id: str) -> None:
        """End a run at once, whose answer nobody waits for."""
        record = self.get(id)
        with self._lock:
            record.stopping = True
            self.processes.end(record.identity)
            self._settle(record)

    def resume(self, id: str, words: Sequence[str]) -> RunRecord:
        """Start a run again that has ended.

        Raises:
            Conflict: It still runs.
        """
        record = self.get(id)
        with self._lock:
            self._check_ended(record)
            self._launch(record, words)
        self._after_start(record)
        return record

    def rename(self, id: str, name: str) -> RunRecord:
        """Give a run another name."""
        record = self.get(id)
        if not name.strip():
            raise InputError("a run needs a name")
        with self._lock:
            record.name = name.strip()[:120]
            self._save(record)
        self._publish(record)
        return record

    def aside(self) -> list[RunRecord]:
        """The runs that were set aside, newest first."""
        found = (_read(path) for path in (self.folder.parent / ASIDE).glob(f"*/{RECORD}"))
        return sorted((one for one in found if one is not None), key=lambda one: -one.created)

    def bring_back(self, id: str) -> RunRecord:
        """Put a run that was set aside into the list again.

        Raises:
            NotFound: There is none.
        """
        known = {record.id: record for record in self.aside()}
        if id not in known:
            raise NotFound("there is no such run among those set aside", "reload the list")
        record = known[id]
        with self._lock, disk_errors(self.folder):
            (self.folder.parent / ASIDE / id).replace(self.place(id))
            self._records[id] = record
        self._said.pop(id, None)
        self._publish(record)
        return record

    def _check_ended(self, record: RunRecord) -> None:
        self._settle(record)
        if record.ended is None:
            raise Conflict("this run has not ended yet", "stop it first")

    def set_aside(self, id: str) -> None:
        """Take a run out of the list; its folders stay where they are, its record with them.

        Raises:
            Conflict: It still runs.
        """
        record = self.get(id)
        with self._lock:
            self._check_ended(record)
            aside = self.folder.parent / ASIDE
            with disk_errors(aside):
                aside.mkdir(parents=True, exist_ok=True)
                self.place(id).replace(aside / id)
            del self._records[id]
        self.studio.events.publish("run", run={"id": id, "kind": record.kind, "state": "aside"})

    def going(self, kind: str) -> list[RunRecord]:
        """The runs of a kind that go on."""
        for record in (found := [one for one in self.records() if one.kind == kind]):
            self._settle(record)
        return [record for record in found if record.ended is None]

    def curves(self, id: str) -> Curves:
        """The curves of a run."""
        with self._lock:
            if id not in self._curves:
                self._curves[id] = Curves(Path(self.get(id).output or self.place(id)))
            return self._curves[id]

    def result(self, id: str) -> dict[str, Any] | None:
        """The JSON object that the child printed, or the last of several; None without.

        Of a child that also prints its progress the last line is the result, if it says so.
        """
        try:
            text = (self.place(id) / OUTPUT).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        if (whole := _object(text)) is not None:
            return whole if whole.get("event", "result") == "result" else None
        last = _object(text.rstrip().rpartition("\n")[2])
        return last if last is not None and last.get("event") == "result" else None

    def log(self, id: str, start: int = 0) -> str:
        """The end of what the child wrote to stderr, from a byte on."""
        try:
            with (self.place(id) / LOG).open("rb") as stream:
                stream.seek(max(start, stream.seek(0, 2) - _LOG_TAIL))
                return stream.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def resumable(self, record: RunRecord) -> bool:
        """Whether training can go on in the run's folder."""
        folder = Path(record.output)
        if record.kind != "train" or not record.output:
            return False
        return (folder / CHECKPOINTS).is_dir() or (folder / MANIFEST).is_file()

    def model_of(self, record: RunRecord) -> Path | None:
        """The folder of the model that a training has saved: the best, else the last."""
        if record.kind != "train" or not record.output:
            return None
        found = (Path(record.output) / name for name in (BEST, FINAL))
        return next((folder for folder in found if (folder / RECORD).is_file()), None)

    def show(self, record: RunRecord) -> dict[str, Any]:
        """A run as the page gets it."""
        end = record.ended or {}
        state = end.get("state") or ("stopping" if record.stopping else "running")
        shown: dict[str, Any] = {
            "id": record.id,
            "kind": record.kind,
            "name": record.name,
            "state": state,
            "message": end.get("message", ""),
            "advice": end.get("advice"),
            "created": record.created,
            "seconds": end.get("seconds", max(0.0, time.time() - record.began)),
            "about": record.about,
            "passing": record.kind in PASSING,
        }
        if record.ended is None:
            log = self.log(record.id, record.log_from)
            shown["doing"] = _last_line(log) or f"{_STARTING}{console.PHASE}"
            shown["phase"] = self._phase(record, log)
        if record.kind == "train":
            shown |= self._show_training(record)
        return shown

    def _phase(self, record: RunRecord, log: str) -> str | None:
        """What a training does before its first figures; None once it has some."""
        if record.kind != "train":
            return None
        curves = self.curves(record.id)
        if not curves.steps:
            curves.follow()
        resumed = record.log_from and _RESUMED not in log
        if curves.steps and not resumed:
            return None
        phases = [line for line in log.splitlines() if _PHASE_LINE.fullmatch(line)]
        return phases[-1].removesuffix(console.PHASE) if phases else _STARTING

    def _show_training(self, record: RunRecord) -> dict[str, Any]:
        curves = self.curves(record.id)
        if not curves.steps:
            curves.follow()
        plan, best, model = curves.plan(), curves.best(), self.model_of(record)
        finished = record.ended is not None and record.ended["state"] == "done"
        return {
            "step": curves.steps[-1] if curves.steps else 0,
            "total_steps": plan.get("total_steps"),
            "loss": curves.losses[-1] if curves.losses else None,
            "best": best and {"step": best["step"], "loss": best["loss"]},
            "validations": len(curves.validations),
            "base": plan.get("base_val_loss"),
            "samples": len(plan["samples"]),
            "sentence": curves.sentence(),
            "left": curves.seconds_left() if record.ended is None else None,
            "model": None if model is None else self.studio.ids.id(model),
            "model_path": None if model is None else str(model),
            "resumable": record.ended is not None and not finished and self.resumable(record),
        }


def _read(path: Path) -> RunRecord | None:
    """The record in a file; None where it is damaged or of a newer version."""
    try:
        values = json.loads(path.read_text("utf-8"))
        if values.pop("format") != 1 or values["id"] != path.parent.name:
            return None
        return RunRecord(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is; None where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _error_in(log: str) -> tuple[str, str | None]:
    """The last error that a log says, and its advice; empty where it says none."""
    lines = log.splitlines()
    for place in range(len(lines) - 1, -1, -1):
        if lines[place].startswith("error: "):
            advice = lines[place + 1].strip() if place + 1 < len(lines) else None
            message = without_folders(lines[place].removeprefix("error: ").strip())
            return message, advice or None
    return "", None


def _last_line(log: str) -> str:
    """The last line of a log that says something."""
    lines = (line.strip() for line in reversed(log.splitlines()))
    return next((line for line in lines if line), "")[:200]
