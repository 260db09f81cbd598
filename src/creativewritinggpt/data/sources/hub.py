"""Named sources from the hub, streamed: what is read is all that is fetched.

The parquet files are read through the real ``datasets`` client at one resolved revision, which is
recorded. When the connection breaks, reading goes on after the last row that came; what had been
read is kept. The validation split is read first, so that a bound on the documents can't leave it
out. Without a network the revision resolved last is taken, so documents read before are found.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...config.run import Config
from ...errors import InputError, RunError
from ...files import cache_folder, read_json, write_json
from ..document import Document, Reading
from ..readers.columns import Row
from . import HubSet, NamedSource, RowForm, Source, kept

_RETRIES = 4
WAIT_SECONDS = 2.0
_ANSWER_SECONDS = 20


def open_hub(source: NamedSource, config: Config) -> Source:
    """A named source on the hub; for a stream all of it, a file (shard) at a time.

    Args:
        source: What to read.
        config: ``train_size`` and ``val_size`` are shared out evenly among ``config.sources``.

    Raises:
        InputError: The extra ``hub`` is not installed.
        RunError: The hub can't be reached, or has no such data set.
    """
    assert source.hub is not None
    hub = source.hub
    revision = _revision(source.name, hub, config)
    limits = _limits(hub, config)
    origin = {"hub": hub.repository, "name": hub.name, "revision": revision}
    sides = sorted(hub.splits.items(), key=lambda item: item[1] == "train")

    def read(reading: Reading) -> Iterator[Document]:
        reading.report.origin = origin
        done, total = 0, sum(limits.values())
        for split, side in sides:
            documents = _documents(source, split, side, revision, reading)
            for document in itertools.islice(kept(documents, source.keep, reading), limits[side]):
                yield document
                done += 1
                if reading.progress is not None and done % 50 == 0:
                    reading.progress(f"reading {source.name} from the hub", done, total)

    def read_stream(reading: Reading) -> Iterator[Document]:
        reading.report.origin = origin
        for split, side in sides:
            shards = _shards(source, hub, split, revision, reading)
            # With files enough for everybody, none is fetched twice.
            reading.by_file = 1 < reading.num_shards <= shards
            for shard in range(shards):
                mine = not reading.by_file or shard % reading.num_shards == reading.shard
                if reading.next_file() and mine:
                    documents = _documents(source, split, side, revision, reading, shard)
                    yield from kept(documents, source.keep, reading)

    if config.streaming:
        return Source(source.name, None, read_stream, sharded=_divisible(source))
    return Source(source.name, {**origin, "splits": dict(hub.splits), "limits": limits}, read)


def _divisible(source: NamedSource) -> bool:
    return all(form.divisible for form in source.rows)


def _shards(source: NamedSource, hub: HubSet, split: str, revision: str, reading: Reading) -> int:
    """In how many files a split is read; one where documents go on from row to row."""
    failures = 0
    while _divisible(source):
        try:
            return int(_split(hub, split, revision).num_shards)
        except Exception as error:
            failures += 1
            _wait(error, failures, 0, source.name, hub, reading)
    return 1


def _limits(hub: HubSet, config: Config) -> dict[str, int]:
    """How many documents of each side are read."""
    sources = max(1, len(config.sources))
    train, validation = -(-config.train_size // sources), -(-config.val_size // sources)
    if "validation" not in hub.splits.values():
        limits = {"train": train + validation}
    else:
        limits = {"validation": min(validation, max(1, train // 9)), "train": train}
    if config.max_documents is not None:
        held = min(limits.get("validation", 0), max(1, config.max_documents // 10))
        limits = {side: held if side == "validation" else config.max_documents for side in limits}
    return limits


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "data sets of the hub need the extra 'hub'",
            "pip install 'creativewritinggpt[hub]', or give files instead",
        ) from error
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    return datasets


def _ways_out(name: str) -> str:
    return (
        f"check the network, give files (cwgpt train {name}=PATH), use --sources sample, "
        "or go on without it: --skip-missing"
    )


def _revision(name: str, hub: HubSet, config: Config) -> str:
    """The commit of the data set; offline the one that was resolved last."""
    _library()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    record = cache_folder(config.cache_dir) / "hub" / f"{hub.repository.replace('/', '--')}.json"
    try:
        answer = HfApi().dataset_info(hub.repository, timeout=_ANSWER_SECONDS).sha
    except GatedRepoError as error:
        raise RunError(
            f"{name}: the hub gives {hub.repository} only to those whom its owners let in",
            "ask for access on its page and log in with: hf auth login",
        ) from error
    except RepositoryNotFoundError as error:
        raise RunError(
            f"{name}: the hub has no data set {hub.repository}", _ways_out(name)
        ) from error
    except Exception as error:
        known = _recorded(record)
        if known is None:
            raise RunError(
                f"{name}: the hub can't be reached ({_cause(error)})", _ways_out(name)
            ) from error
        return known
    write_json(record, {"revision": answer})
    return str(answer)


def _recorded(record: Path) -> str | None:
    try:
        return str(read_json(record)["revision"])
    except (InputError, KeyError, TypeError):
        return None


def _cause(error: BaseException) -> str:
    """The first line of what went wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _documents(
    source: NamedSource,
    split: str,
    side: str,
    revision: str,
    reading: Reading,
    shard: int | None = None,
) -> Iterator[Document]:
    assert source.hub is not None
    rows = _rows(source.name, source.hub, split, revision, reading, shard)
    if shard is not None and _divisible(source):
        rows = ((number, row) for number, row in rows if reading.is_mine(number))
    first = next(rows, None)
    if first is None:
        return
    form = _form(source, list(first[1]))
    reading.report.add_form(f"{form.description} (the hub's {source.hub.repository})")
    label = f"{side}-{source.hub.repository.replace('/', '-')}"
    yield from form.documents(itertools.chain([first], rows), reading, label)


def _form(source: NamedSource, columns: list[str]) -> RowForm:
    for form in source.rows:
        if form.has_columns(columns):
            return form
    assert source.hub is not None
    raise RunError(
        f"{source.name}: {source.hub.repository} has columns that are not known here: "
        f"{', '.join(columns)}",
        f"fetch its files and read them with --text-column: cwgpt train {source.name}=PATH",
    )


def _split(hub: HubSet, split: str, revision: str) -> Any:
    """A split as the client streams it."""
    return _library().load_dataset(
        hub.repository, hub.name, split=split, streaming=True, revision=revision
    )


def _rows(
    name: str, hub: HubSet, split: str, revision: str, reading: Reading, shard: int | None = None
) -> Iterator[tuple[int, Row]]:
    """The rows of a split or of a shard of it; after a broken connection, on from the last one."""
    done = 0 if shard is None else reading.rows_before
    failures = 0
    while True:
        try:
            rows = _split(hub, split, revision)
            if shard is not None and rows.num_shards > 1:
                rows = rows.shard(num_shards=rows.num_shards, index=shard)
            for row in rows.skip(done) if done else rows:
                done += 1
                failures = 0
                yield done, row
            return
        except Exception as error:
            failures += 1
            _wait(error, failures, done, name, hub, reading)


def _wait(
    error: Exception, failures: int, done: int, name: str, hub: HubSet, reading: Reading
) -> None:
    """Wait after a failure, longer each time.

    Raises:
        RunError: It is one that waiting does not mend, or there were too many.
    """
    lasting = isinstance(error, (ValueError, _library().exceptions.DatasetNotFoundError))
    if lasting or failures > _RETRIES:
        where = f" after {done} rows" if done else ""
        raise RunError(
            f"{name}: {hub.repository} could not be read{where} ({_cause(error)})", _ways_out(name)
        ) from error
    reading.report.note("the connection broke and was taken up again")
    time.sleep(WAIT_SECONDS * 2 ** (failures - 1))
