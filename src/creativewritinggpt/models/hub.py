"""Models from the Hugging Face hub.

A model is fetched once into the hub client's own cache: its safetensors and the small files beside
them. A cached model is used without asking the hub again, so that a command works offline as it did
online, on the same weights. Without network and cache one line names the alternatives, after
seconds and not minutes.

Trade-off: a newer version on the hub is not noticed.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import console
from ..errors import InputError, RunError, UserError
from ..files import disk_errors, read_json
from .checks import check_config, first_line

_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt"]
# Exports for other runtimes, and a second copy of the weights that some models carry.
_UNWANTED = ["*/*", "consolidated*"]
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "merges.txt", "vocab.txt", "spiece.model")
ANSWER_SECONDS = 10.0
"""Time limit of a request to the hub, in seconds."""
_WAYS_OUT = (
    "go online once, use --model-name starter, give a model folder, or set HF_HOME to a cache "
    "that holds it"
)


def looks_like_hub_id(name: str) -> bool:
    """Whether a name that is no folder can be meant as a hub id.

    ``outputs/best_model`` has that form too; where the first part is a folder here, or the last
    one that our runs write, a folder is meant.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        return False
    first, slash, last = name.partition("/")
    return not (slash and (Path(first).is_dir() or last in ("best_model", "final_model")))


def fetch(name: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a hub model, fetched where the cache does not hold it, and its revision.

    Args:
        name: The hub id.
        revision: A branch, a tag or a commit; without it ``main``.

    Raises:
        InputError: The hub has no such model, or access to it must be asked for.
        RunError: It is not cached and there is no network, or the disk is full.
    """
    path = _cached(name, revision) or _download(name, revision)
    return path, path.name


def _cached(name: str, revision: str | None) -> Path | None:
    """The model's folder in the hub client's cache, if it is there and whole."""
    from huggingface_hub import errors, snapshot_download

    try:
        path = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
                local_files_only=True,
            )
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None
    # Older clients take what an interrupted download left for the whole.
    if all((path / file).is_file() for file in _ADAPTER):
        return path
    weights = any(path.glob("*.safetensors")) and (path / "config.json").is_file()
    return path if weights and any((path / file).is_file() for file in _TOKENIZERS) else None


def _download(name: str, revision: str | None) -> Path:
    """Let the hub client fetch the model into its cache."""
    from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

    answered = False
    try:
        with disk_errors(Path(name)), _calm_client():
            # The fetch itself would wait for ever for a hub that takes the call and says nothing.
            info = HfApi().model_info(name, revision=revision, timeout=ANSWER_SECONDS)
            answered = True
            files = [file.rfilename for file in info.siblings or []]
            _check_files(name, files)
            if "config.json" in files:
                config = hf_hub_download(
                    name, "config.json", revision=revision, etag_timeout=ANSWER_SECONDS
                )
                check_config(read_json(Path(config)), name)
            console.note(f"fetching {name} from the hub, once")
            return Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=_WANTED,
                    ignore_patterns=_UNWANTED,
                    etag_timeout=ANSWER_SECONDS,
                )
            )
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise InputError(
            f"the hub gives {name} only to those who accepted its terms",
            "accept them on its page and log in with: hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"the hub has no revision {revision} of {name}") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"the hub has no model {name}, and there is no such folder here",
            "check the spelling; a private model needs: hf auth login",
        ) from error
    except errors.HFValidationError as error:
        raise InputError(f"{name} is neither a folder nor a hub id") from error
    except Exception as error:
        # The client and its HTTP library raise too many kinds to name; the cause is kept.
        if not answered or isinstance(error, errors.LocalEntryNotFoundError):
            raise RunError(
                f"{name} is no folder and not in the hub's cache, and the hub can't be reached",
                _WAYS_OUT,
            ) from error
        raise RunError(
            f"{name} could not be fetched from the hub: {first_line(error)}",
            "run the command again: it goes on where it stopped",
        ) from error


def _check_files(name: str, files: list[str]) -> None:
    """Refuse a model without safetensors before anything of it is fetched."""
    if not any(file.endswith(".safetensors") and "/" not in file for file in files):
        others = [file for file in files if file.endswith((".bin", ".pt", ".gguf", ".h5"))]
        raise InputError(
            f"the hub's {name} has no safetensors" + (f", only {others[0]}" if others else ""),
            "other weights are not read; use a model with safetensors",
        )


@contextlib.contextmanager
def _calm_client() -> Iterator[None]:
    """Keep the hub client's warnings away, and its progress bars too where nobody watches."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    level, hidden = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if not hidden:
            enable_progress_bars()
