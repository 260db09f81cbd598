"""What several processes share: cache entries, files with one writer, scratch folders.

Locks are the system's, so that they end with their process, however that ends; what a killed
process has left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from .errors import InputError, UserError
from .files import (
    atomic_folder,
    clean_up,
    disk_errors,
    file_sha256,
    read_json,
    refused_name,
    remove_left,
    write_json,
)

Found = TypeVar("Found")

CHECKSUMS = "checksums.json"
"""SHA-256 of the other files of a cache entry, by name."""


def _checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS
    }


def _is_sound(entry: Path) -> bool:
    """Whether the files of a cache entry are those that were written."""
    try:
        return bool(read_json(entry / CHECKSUMS) == _checksums(entry))
    except (InputError, OSError, RecursionError):
        return False


def cached_folder(
    entry: Path,
    find: Callable[[], Found | None],
    make: Callable[[Path], None],
    *,
    checked: bool = False,
) -> Found:
    """A cache entry, made where it is missing or damaged by the first process that needs it.

    Args:
        entry: Folder of the entry; its lock file lies beside it.
        find: Reads the entry; None where it is missing or damaged.
        make: Writes the content into the temporary folder that it is given.
        checked: Keep and compare checksums: a flipped bit of a text or a token would not be seen.
            An entry without them is made anew.

    Raises:
        RunError: The disk is full.
        InputError: The cache can't be written to.
    """

    def whole() -> Found | None:
        return find() if not checked or _is_sound(entry) else None

    if (found := whole()) is not None:
        remove_left(entry)  # where that could not be removed when the entry was made
        return found
    with disk_errors(entry.parent):
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(entry.parent / f".{entry.name}.lock")
        lock.acquire()
    try:
        if (found := whole()) is not None:
            return found
        # Only the holder of the lock makes these: a process that was killed has left them.
        clean_up(entry.parent, entry.name)
        with atomic_folder(entry) as folder:
            make(folder)
            if checked:
                write_json(folder / CHECKSUMS, _checksums(folder))
        found = find()
    finally:
        lock.release()
    if found is None:
        raise OSError(f"the cache entry {entry} can't be read back")
    return found


@contextlib.contextmanager
def one_writer(path: Path, busy: UserError) -> Iterator[None]:
    """Lock a file, which need not exist, while it is written; the lock ends with the process.

    Args:
        path: The file; its lock lies beside it, and goes with the last writer.
        busy: Raised where another process writes it.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"), thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise refused_name(path) or busy from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not delete open files
            os.unlink(lock.lock_file)
        lock.release()


def scratch_folder(parent: Path, name: str) -> tuple[Path, Callable[[], None]]:
    """A new folder ``.NAME.…`` in ``parent`` for this process, and what removes it.

    Those that no process uses any more are removed.

    Raises:
        RunError: The disk is full.
        InputError: The folder can't be written to.
    """
    with disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f".{name}.lock"):
            _remove_unused(_scratch_folders(parent, name))
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}."))
            lock = FileLock(folder / _OWNED, thread_local=False)
            lock.acquire(timeout=0)

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()

    return folder, remove


def clear_scratch(parent: Path, name: str) -> None:
    """Remove the folders of :func:`scratch_folder` that no process uses any more, as far as it can.

    For runs that make none themselves; no lock is touched where there is nothing to remove.
    """
    if left := _scratch_folders(parent, name):
        with contextlib.suppress(OSError), FileLock(parent / f".{name}.lock", timeout=0):
            _remove_unused(left)


def _scratch_folders(parent: Path, name: str) -> list[Path]:
    return [path for path in parent.glob(f".{name}.*") if path.is_dir()]


def _remove_unused(folders: list[Path]) -> None:
    for left in folders:
        with contextlib.suppress(OSError), FileLock(left / _OWNED, timeout=0):
            shutil.rmtree(left, ignore_errors=True)


_OWNED = ".owned"
