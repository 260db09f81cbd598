"""Files appear whole or not at all."""

import errno
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from creativewritinggpt.errors import InputError, RunError
from creativewritinggpt.files import (
    atomic_file,
    atomic_folder,
    check_writable,
    clean_up,
    disk_errors,
    from_home,
    read_json,
    same_place,
    scratch_beside,
    true_path,
    write_json,
    write_text,
)
from creativewritinggpt.locking import cached_folder, clear_scratch, one_writer, scratch_folder


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_name_too_long_and_a_file_too_large_for_the_disk_are_told(tmp_path):
    with pytest.raises(InputError, match="too long"):
        write_text(tmp_path / ("n" * 300), "new")
    with pytest.raises(RunError, match="too large for this disk"), disk_errors(tmp_path / "a"):
        raise OSError(errno.EFBIG, "File too large")


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
@pytest.mark.parametrize("name", ["n" * 250 + ".json", "é" * 125 + ".json", "n." + "x" * 253])
def test_names_as_long_as_the_file_system_takes_are_written_and_cleaned_up(name, tmp_path):
    write_text(tmp_path / name, "whole")
    with atomic_folder(tmp_path / f"{name[:-1]}d") as temporary:
        left = temporary.name
        (temporary / "w").write_text("new")
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"{name[:-1]}d"])
    old = tmp_path / left.replace(".new.", ".old.")
    old.mkdir()
    (tmp_path / f"{name[:-1]}d").rename(old / f"{name[:-1]}d")
    clean_up(tmp_path, f"{name[:-1]}d")
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"{name[:-1]}d"])


def test_a_tilde_is_a_home_folder_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert from_home("~/story.json") == tmp_path / "story.json"
    assert str(from_home("~draft.json")) == "~draft.json"


def test_failed_folder_leaves_the_old_folder_and_no_rest(tmp_path):
    target = tmp_path / "model"
    with atomic_folder(target) as temporary:
        (temporary / "w").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "w").write_text("half")
        raise RuntimeError
    assert (target / "w").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_folder_is_replaced_whole(tmp_path):
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "model") as temporary:
            (temporary / content).write_text(content)
    assert os.listdir(tmp_path / "model") == ["two"]
    assert os.listdir(tmp_path) == ["model"]


def test_file_beyond_the_limit_is_one_clear_line(tmp_path):
    """Shared machines limit the size of files, and old file systems do."""
    script = (
        "import resource, torch\nfrom pathlib import Path\n"
        "from safetensors.torch import save_file\n"
        "from creativewritinggpt.errors import RunError\n"
        "from creativewritinggpt.files import atomic_folder, write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "def folder(path):\n"
        "    with atomic_folder(path) as new:\n"
        "        save_file({'a': torch.ones(10000)}, new / 'a')\n"
        "for work in (folder, lambda path: write_text(path, 'x' * 10000)):\n"
        "    try:\n        work(Path('out'))\n"
        "    except RunError as error:\n        print(error.message)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.stdout.count("out could not be written: it is too large") == 2, run.stderr
    assert os.listdir(tmp_path) == []


def test_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_folder_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        write_json(tmp_path / "file" / "a.json", {})


def test_a_folder_that_can_not_be_written_is_named_and_none_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "new" / "results")
    for below in ("file", "file/results"):
        with pytest.raises(InputError, match="can't be written: Not a directory"):
            check_writable(tmp_path / below)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="can't be written: Permission denied"):
        check_writable(tmp_path / "new" / "results")
    assert os.listdir(tmp_path) == ["file"]


def test_broken_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "b.json")


def test_killed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    code = (
        "import os,sys\nfrom creativewritinggpt.files import atomic_file\n"
        "with atomic_file(sys.argv[1]) as t:\n t.write_text('half')\n os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert target.read_text() == "old"


def test_new_files_have_the_usual_permissions(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_drive_that_knows_no_permissions_is_written_to(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chmod", refused)
    write_text(tmp_path / "a", "x")
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "w").write_text("x")
    assert sorted(os.listdir(tmp_path)) == ["a", "model"]


def test_what_killed_writers_left_is_removed_and_the_old_version_comes_back(tmp_path):
    for name in (".model.new.abcd1234", ".other.old.abcd1234", ".notes"):
        (tmp_path / name).mkdir()
    moved = tmp_path / ".model.old.efgh5678" / "model"
    moved.mkdir(parents=True)
    (moved / "w").write_text("old")
    (tmp_path / ".a.json.ab_d1234.tmp.json").write_text("half")
    clean_up(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".notes", "model"]
    assert (tmp_path / "model" / "w").read_text() == "old"


def test_a_cache_entry_is_made_once_and_made_again_where_it_is_damaged(tmp_path):
    entry, made = tmp_path / "cache" / "entry", []

    def find():
        file = entry / "w"
        return file.read_text() if file.is_file() and file.stat().st_size == 3 else None

    def make(folder):
        made.append(folder)
        (folder / "w").write_text("new")

    assert [cached_folder(entry, find, make) for _ in range(2)] == ["new", "new"]
    assert len(made) == 1
    (entry / "w").write_text("damaged")
    (entry.parent / ".entry.new.abcd1234").mkdir()  # of a process that was killed
    assert cached_folder(entry, find, make) == "new"
    assert sorted(os.listdir(entry.parent)) == [".entry.lock", "entry"]


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENOSPC, RunError, "the disk is full"),
        (errno.EDQUOT, RunError, "your quota of disk space is used up"),
        (errno.EIO, RunError, "Input/output error"),
        (errno.ESTALE, RunError, "could not be written"),
        (errno.EROFS, InputError, "Read-only file system"),
        (errno.EACCES, InputError, "Permission denied"),
        (errno.ENOENT, RunError, "its folder has vanished"),
    ],
)
def test_what_the_system_and_native_code_say_of_a_disk_is_one_sentence(
    tmp_path, number, kind, said
):
    from safetensors import SafetensorError

    target = tmp_path / "story.json"
    native = SafetensorError(f"Error while serializing: I/O error: it broke (os error {number})")
    for error in (OSError(number, os.strerror(number), str(target)), native):
        with pytest.raises(kind, match=said) as raised, disk_errors(target):
            raise error
        assert str(target) in raised.value.message


def test_a_missing_file_elsewhere_is_no_vanished_folder(tmp_path):
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path / "out" / "story.json"):
        open(tmp_path / "elsewhere" / "model")  # noqa: SIM115


@pytest.mark.skipif(os.name == "nt", reason="open files can't be told there")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_write_has_left_goes_with_the_next_one(kind, tmp_path):
    """Of the same file or folder only, and only where no process writes it any more."""
    half = {"file": "temporary", "folder": "(temporary / 'w')"}[kind]
    script = (
        f"import os, sys\nfrom creativewritinggpt.files import atomic_{kind}\n"
        f"with atomic_{kind}(sys.argv[1]) as temporary:\n"
        f"    {half}.write_text('half')\n    print(temporary, flush=True)\n    sys.stdin.read()\n"
    )
    target = tmp_path / "story.json"

    def write():
        if kind == "file":
            write_text(target, "whole")
            return target.read_text()
        with atomic_folder(target) as temporary:
            (temporary / "w").write_text("whole")
        return (target / "w").read_text()

    def writer():
        child = subprocess.Popen(
            [sys.executable, "-c", script, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return child, Path(child.stdout.readline().decode().strip())

    killed, left = writer()
    killed.kill()
    killed.communicate()
    other = tmp_path / ".other.json.abcdefgh.tmp.json"
    other.write_text("of another file")
    alive, used = writer()
    try:
        assert not left.exists() and used.exists()
        assert write() == "whole"
        assert used.exists() and other.exists()
    finally:
        alive.kill()
        alive.communicate()


@pytest.mark.skipif(os.name == "nt", reason="what is in use can't be told there")
def test_what_could_not_be_removed_beside_a_whole_cache_entry_goes_when_it_is_read(tmp_path):
    entry = tmp_path / "entry"
    entry.mkdir()
    for name in (".entry.fetch.abcd1234", ".entry.old.abcd1234", ".other.new.abcd1234"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_text("half")
    with scratch_beside(entry, "fetch") as used:
        assert cached_folder(entry, lambda: "found", lambda folder: None) == "found"
        assert sorted(os.listdir(tmp_path)) == sorted([".other.new.abcd1234", "entry", used.name])
    assert sorted(os.listdir(tmp_path)) == [".other.new.abcd1234", "entry"]


def test_a_cache_whose_lock_cant_be_made_is_said(tmp_path, monkeypatch):
    from filelock import FileLock

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(FileLock, "acquire", refused)
    with pytest.raises(InputError, match="Read-only file system"):
        cached_folder(tmp_path / "entry", lambda: None, lambda folder: None)


def test_scratch_of_a_killed_process_goes_with_the_next_and_that_in_use_stays(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from creativewritinggpt.locking import scratch_folder\n"
        "folder, _ = scratch_folder(Path(sys.argv[1]), 'passing')\n"
        "print(folder, flush=True)\nsys.stdin.read()\n"
    )

    def owner():
        child = subprocess.Popen(
            [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return child, Path(child.stdout.readline().decode().strip())

    killed, left = owner()
    killed.kill()
    killed.communicate()
    alive, used = owner()
    try:
        folder, remove = scratch_folder(tmp_path, "passing")
        assert not left.exists() and used.exists() and folder.exists()
        remove()
        assert used.exists() and not folder.exists()
        (tmp_path / ".passing.abcdefgh").mkdir()
        clear_scratch(tmp_path, "passing")  # of a run that makes none itself
        assert not (tmp_path / ".passing.abcdefgh").exists() and used.exists()
    finally:
        alive.kill()
        alive.communicate()


def test_one_process_writes_a_file(tmp_path):
    busy = InputError("another process is writing it")
    with one_writer(tmp_path / "a.jsonl", busy):
        with (
            pytest.raises(InputError, match="another process"),
            one_writer(tmp_path / "a.jsonl", busy),
        ):
            pass
        with one_writer(tmp_path / "b.jsonl", busy):
            pass
    with one_writer(tmp_path / "a.jsonl", busy):
        pass
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_a_private_file_is_its_users_alone(tmp_path):
    with atomic_file(tmp_path / "key", private=True) as temporary:
        temporary.write_text("secret")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_names_that_are_no_utf_8_are_refused_for_models_and_escaped_in_records(tmp_path):
    name = os.fsdecode(b"\xff.json")
    with pytest.raises(InputError, match="no UTF-8"):
        check_writable(tmp_path / name)
    write_json(tmp_path / "run.json", {"file": name})
    assert read_json(tmp_path / "run.json") == {"file": name}


@pytest.fixture
def one_case(tmp_path, monkeypatch):
    """A folder whose file system takes names that differ in case for one, as far as is asked."""
    real = os.path.lexists

    def lexists(path):
        folder, name = os.path.split(path)
        if not str(path).startswith(str(tmp_path)):
            return real(path)
        return folded(name) in map(folded, os.listdir(folder))

    def folded(name):
        return unicodedata.normalize("NFC", name).casefold()

    monkeypatch.setattr("creativewritinggpt.files.os.path.lexists", lexists)
    return tmp_path


def test_names_that_differ_in_case_or_composition_are_one_file_where_the_disk_says_so(one_case):
    (one_case / "Tale-\u00e9.json").touch()
    place = one_case / "Tale-\u00e9.json"
    for other in ("TALE-\u00c9.JSON", "tale-\u00c9.json", "tale-e\u0301.json"):
        assert true_path(one_case / other) == place
        assert same_place(one_case / other, place)
    assert not same_place(one_case / "Tale-e.json", place)
    assert true_path(one_case / "Novel.json") == one_case / "Novel.json"


def test_names_that_differ_in_case_are_two_files_here(tmp_path):
    (tmp_path / "a").touch()
    if (tmp_path / "A").exists():
        pytest.skip("this file system takes them for one")
    assert not same_place(tmp_path / "A", tmp_path / "a")
    (tmp_path / "A").touch()
    assert not same_place(tmp_path / "A", tmp_path / "a")
    (tmp_path / "link").symlink_to("a")
    assert same_place(tmp_path / "link", tmp_path / "a")
