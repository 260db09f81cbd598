"""Atomic writes of files and folders, reading of settings, and where caches lie.

A file or folder is written under a temporary name beside its place and then renamed: after a
crash, a full disk or Ctrl-C the old version is still there.

Trade-off: disk space for both versions.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import InputError, RunError, UserError

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_WINDOWS = {112: errno.ENOSPC, 223: errno.EFBIG}
_LOST_DISK = {
    getattr(errno, name)
    for name in (
        "EIO", "ENXIO", "ENODEV", "ESTALE", "ENOTCONN", "EREMOTEIO", "EHOSTDOWN", "ENOLCK",
        "EOPNOTSUPP",
    )
    if hasattr(errno, name)
}  # fmt: skip


def _number(error: Exception) -> int | None:
    """The number of an error of the operating system; native code has it in its text."""
    if isinstance(error, OSError):
        return error.errno
    if (match := _OS_ERROR.search(str(error))) is None:
        return None
    number = int(match[1])
    return _WINDOWS.get(number, number) if os.name == "nt" else number


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Translate write errors of the operating system into errors that name ``path``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (found := _translated(error, path)) is None:
            raise
        raise found from error


def _translated(error: Exception, path: Path) -> UserError | None:
    """The error that says what has kept ``path`` from being written; None for other errors."""
    number = _number(error)
    untouched = "what was there before is untouched; "
    if number == errno.EFBIG:
        return RunError(
            f"{path} could not be written: it is too large for this disk, or for a limit on the "
            "size of files",
            f"{untouched}choose another folder, or see ulimit -f",
        )
    if number == errno.ENOSPC:
        return RunError(
            f"the disk is full: {path} could not be written",
            f"{untouched}free some space and run the command again",
        )
    if number == errno.EDQUOT:
        return RunError(
            f"your quota of disk space is used up: {path} could not be written",
            f"{untouched}free some space and run the command again",
        )
    if number == errno.ENAMETOOLONG:
        return InputError(f"the name …{str(path)[-60:]} is too long", "shorten it")
    if number in (
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.EROFS,
    ):
        return InputError(
            f"{path} can't be written: {os.strerror(number)}",
            "choose another folder or change its permissions",
        )
    if number is not None and number in _LOST_DISK:
        return RunError(
            f"{path} could not be written: {os.strerror(number)}",
            "see whether the disk is there and sound, and run the command again",
        )
    if number in _NO_NAME and (refused := refused_name(path)) is not None:
        return refused
    if number == errno.ENOENT and _was_in(getattr(error, "filename", None), path):
        return RunError(
            f"{path} could not be written: its folder has vanished",
            "see whether the disk is there, and run the command again",
        )
    return None


_NO_NAME = (errno.ENOENT, errno.EINVAL, errno.EILSEQ)
"""What systems answer where a disk takes no file of a name."""


def refused_name(path: Path) -> InputError | None:
    """The error where the disk takes no file of this name, as many take no ``?``; one is tried."""
    place = path.absolute()
    while not place.parent.is_dir() and place != place.parent:
        place = place.parent
    if os.path.lexists(place):
        return None
    probe = place.with_name(f".{_stem(place.name)}.{os.urandom(4).hex()}.tmp")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(probe)
    except OSError as error:
        if error.errno in _NO_NAME:
            return InputError(
                f"{path} can't be written: its disk takes no file of that name",
                'choose a name without such characters as ? * : " < > |',
            )
    return None


def _was_in(missing: str | bytes | os.PathLike[str] | None, path: Path) -> bool:
    """Whether what is missing was beside ``path`` or in it; unknown for native code: yes."""
    if missing is None or isinstance(missing, int):
        return True
    near = path.absolute().parent
    return Path(os.path.abspath(os.fsdecode(missing))).is_relative_to(near)


def _usual_modes(path: Path) -> None:
    """Give a temporary file or folder the permissions that new ones have."""
    umask = os.umask(0)
    os.umask(umask)
    with contextlib.suppress(PermissionError):  # some drives have none
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _synced(path: Path) -> None:
    """Flush a file's content to disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system can."""
    if os.name == "nt" or not os.access(folder, os.R_OK):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network drives sync no folders
            raise
    finally:
        os.close(handle)


_LONGEST_STEM = 220


def _stem(name: str) -> str:
    """A name as it stands in those of its temporary files, which are some 30 bytes longer."""
    coded = os.fsencode(name)
    if len(coded) <= _LONGEST_STEM:
        return name
    return f"{name[:40]}-{hashlib.sha256(coded).hexdigest()[:16]}"


_looked_after: set[Path] = set()


def remove_left(target: Path) -> None:
    """Remove what killed processes have left of ``target``; what can't be removed stays."""
    with contextlib.suppress(OSError):
        clean_up(target.parent, target.name, shared=True)


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether no process uses a temporary file or folder, which is locked meanwhile."""
    if os.name == "nt":  # where that can't be told
        yield True
        return
    import fcntl

    with contextlib.ExitStack() as stack:
        try:
            handle = os.open(path, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it is in use, or gone
            yield False
            return
        yield True


def _temporary(target: Path) -> tuple[int, Path]:
    """A new file beside ``target``, open, and locked where the system can: until it is closed."""
    while True:
        suffix = target.suffix if len(os.fsencode(target.suffix)) <= 10 else ""
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{_stem(target.name)}.", suffix=f".tmp{suffix}"
        )
        if os.name != "nt":
            import fcntl

            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Another process may have found it before it was locked.
            if not os.path.exists(name):
                os.close(handle)
                continue
        return handle, Path(name)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an error.

    What killed processes have left of the same file goes.

    Args:
        path: The file.
        private: Only this user may read it.
    """
    target = Path(path)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.absolute() not in _looked_after:
            _looked_after.add(target.absolute())
            remove_left(target)
        handle, temporary = _temporary(target)
        if os.name == "nt":
            os.close(handle)
        try:
            yield temporary
            _synced(temporary)
            if not private:
                _usual_modes(temporary)
            temporary.replace(target)
            _sync_folder(target.parent)
        finally:
            if os.name != "nt":
                os.close(handle)
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block ends without an error.

    An old folder is moved aside first and removed last, so one whole version exists at any time.
    What killed processes have left of the same folder goes.
    """
    target = Path(path)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_left(target)
        with scratch_beside(target, "new") as temporary, contextlib.ExitStack() as stack:
            yield temporary
            for entry in (temporary, *temporary.rglob("*")):
                if entry.is_file():
                    _synced(entry)
                _usual_modes(entry)
            old: Path | None = None
            if target.exists():
                old = stack.enter_context(scratch_beside(target, "old")) / target.name
                target.replace(old)
            try:
                temporary.replace(target)
            except BaseException:  # Ctrl-C as well
                if old is not None:
                    old.replace(target)
                raise


@contextlib.contextmanager
def scratch_beside(target: Path, kind: str) -> Iterator[Path]:
    """Yield a new folder ``.NAME.KIND.…`` beside ``target``, which goes when the block ends.

    Where its process is killed, or it can't be removed, it goes with the next :func:`clean_up`.

    Args:
        target: What it is for.
        kind: ``new``, ``old``, ``fetch`` or ``weights``.
    """
    with contextlib.ExitStack() as stack:
        while True:
            prefix = f".{_stem(target.name)}.{kind}."
            folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            if os.name == "nt":
                break
            import fcntl

            with contextlib.suppress(OSError):
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():  # else another process has found it before it was locked
                break
        yield folder


_TEMPORARY = re.compile(
    r"\.(.+)\.(?:(new|old|fetch|weights)\.\w{8}|\w{8}\.tmp(?:\.\w+)?)", re.DOTALL
)


def clean_up(folder: Path, name: str | None = None, *, shared: bool = False) -> None:
    """Remove temporary files and folders that no process uses any more.

    The old version of a folder comes back where its process was killed between moving it aside and
    putting the new one in its place.

    Args:
        folder: The folder.
        name: Look only at what was to become the file or folder of that name in it.
        shared: Other processes may be writing into the folder: where the system can't tell what
            they use (Windows), nothing is removed.
    """
    if not folder.is_dir() or (shared and os.name == "nt"):
        return
    for left in folder.iterdir():
        match = _TEMPORARY.fullmatch(left.name)
        if match is None or (name is not None and match[1] != _stem(name)):
            continue
        with _claimed(left) as free:
            if not free:
                continue
            for old in left.iterdir() if match[2] == "old" else ():
                if _stem(old.name) == match[1] and not (folder / old.name).exists():
                    old.replace(folder / old.name)
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def true_path(path: str | os.PathLike[str]) -> Path:
    """A path without links, each name as its folder has it: equal for all names of one file.

    Many file systems (of macOS, of Windows, exFAT) take names for one that differ in case, or in
    how an accent is composed. What does not exist stays as it is given.
    """
    found = Path(path).resolve()
    spelled = Path(found.anchor)
    for name in found.parts[1:]:
        spelled /= _as_listed(spelled, name)
    return spelled


def same_place(one: Path, other: Path) -> bool:
    """Whether two paths name one file, or would if it were there."""
    if one == other:
        return True
    left, right = one.resolve(), other.resolve()
    return left == right or (
        _folded(left.name) == _folded(right.name) and true_path(left) == true_path(right)
    )


def _as_listed(folder: Path, name: str) -> str:
    if not os.path.lexists(folder / name):
        return name
    try:
        names = os.listdir(folder)
    except OSError:  # it may be entered and not listed
        return name
    alike = () if name in names else [one for one in names if _folded(one) == _folded(name)]
    return alike[0] if len(alike) == 1 else name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_name(path: Path) -> None:
    """Refuse a place whose name is no UTF-8: safetensors can't write there.

    Raises:
        InputError: It is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path} can't be written: its name holds bytes that are no UTF-8",
            "choose another name",
        ) from error


def check_writable(folder: Path) -> None:
    """Refuse a folder that can't be written to, before the work whose results go there.

    Nothing is made: where the folder is missing, its nearest existing parent is checked.

    Raises:
        InputError: It is a file, lies below one, or may not be written to; its name is no UTF-8.
    """
    check_name(folder)
    with disk_errors(folder):
        near = folder
        while not near.exists() and near != near.parent:
            near = near.parent
        if not near.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(near, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def fingerprint(paths: Iterable[Path]) -> str:
    """A value that changes when one of some files does, without reading them.

    It is made of their names, sizes, times of change and inodes.

    Raises:
        OSError: One is not there.
    """
    parts = []
    for path in paths:
        found = path.stat()
        parts.append(
            f"{path.resolve()} {found.st_size} {found.st_mtime_ns} {found.st_ino} {found.st_dev}"
        )
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, atomically.

    A surrogate, as a file name with bytes that are no UTF-8 has, is written as JSON escapes it.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file, without a byte-order mark.

    Raises:
        InputError: The file is missing or is not UTF-8 text.
    """
    try:
        return Path(path).read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read as UTF-8 text") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        InputError: The file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except RecursionError as error:
        raise InputError(f"{path} is not valid JSON: it is nested too deeply") from error
    except ValueError as error:  # of UTF-8, too
        raise InputError(f"{path} is not valid JSON: {error}") from error


_MOST_VALUES, _DEEPEST = 100_000, 50
_LONGEST_YAML, _MOST_BRACKETS = 1_000_000, 2000


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text: plain values, no objects.

    Args:
        text: The text.
        where: What to call it in errors.

    Raises:
        InputError: It is not valid YAML, is nested too deeply, or its aliases repeat too much.
    """
    import yaml

    # The scanner takes time in the square of open brackets.
    if len(text) > _LONGEST_YAML or text.count("[") + text.count("{") > _MOST_BRACKETS:
        raise InputError(f"{where} is not valid YAML: it has too many brackets, or is too long")
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise InputError(f"{where} is not valid YAML{line}") from error
    except Exception as error:  # a date that is none, a number that is none, deep nesting
        raise InputError(f"{where} is not valid YAML ({type(error).__name__})") from error
    waiting = [(found, 0)]
    for count in itertools.count():
        if not waiting:
            return found
        value, depth = waiting.pop()
        if depth > _DEEPEST or count > _MOST_VALUES:
            raise InputError(
                f"{where} is nested too deeply, or its aliases repeat too much",
                "write its values out, as `name: value` lines",
            )
        if isinstance(value, dict):
            waiting += [(one, depth + 1) for pair in value.items() for one in pair]
        elif isinstance(value, (list, tuple, set)):
            waiting += [(one, depth + 1) for one in value]
    raise AssertionError


def path_problem(error: BaseException) -> UserError | None:
    """What the file system has against a path; None for another error.

    A name that is too long, a folder where a file is to be, no right to it, a loop of links, a disk
    that is gone.
    """
    if not isinstance(error, OSError) or not isinstance(error.filename, (str, bytes)):
        return None
    if not error.strerror:
        return None
    advice = "see whether the disk is there and the place can be used"
    kind = RunError if error.errno in _LOST_DISK else InputError
    return kind(f"{os.fsdecode(error.filename)} can't be used: {error.strerror}", advice)


def from_home(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` and ``~USER`` expanded where there is such a user.

    Other names that begin with ``~`` stay; ``Path.expanduser`` fails on them.
    """
    return Path(os.path.expanduser(path))


def to_home(value: Any) -> Any:
    """A record in which paths below the user's home folder begin with ``~``.

    Whoever gets a record shall not learn the user's name. :func:`from_home` leads back.

    Args:
        value: A text, or what JSON can hold; texts may hold a path anywhere, as in ``NAME=PATH``.
    """
    home = str(Path.home()).rstrip("/\\")
    if not home:
        return value
    # Not a longer name, and not a folder of that name elsewhere.
    pattern = re.compile(rf"(?<![\w./\\~-]){re.escape(home)}(?![\w.-])")

    def written(one: Any) -> Any:
        if isinstance(one, str):
            return pattern.sub("~", one)
        if isinstance(one, Mapping):
            return {key: written(inner) for key, inner in one.items()}
        if isinstance(one, (list, tuple)):
            return [written(inner) for inner in one]
        return one

    return written(value)


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Folder of the starter model and of prepared text.

    ``cache_dir`` wins over the variable ``CWGPT_CACHE``, which wins over the platform's folder.
    """
    if cache_dir is not None:
        return from_home(cache_dir)
    if os.environ.get("CWGPT_CACHE"):
        return from_home(os.environ["CWGPT_CACHE"])
    if os.name == "nt":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "creativewritinggpt"
