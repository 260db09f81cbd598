"""What all tests share: tiny models, a tokenizer made on the spot, no way to the network."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import audit
import pytest
import setuptools  # noqa: F401 - torch's compiler imports it, and fails where distutils came before
import torch
from hypothesis import settings
from writers import make_tokenizer, make_writer

# The same inputs in each run; `--hypothesis-profile=default` draws new ones.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

audit.install()

# A shell that starts the suite in the background has SIGINT ignored, in children too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without the real samples their tests are deselected, not passed."""
    if os.environ.get("CWGPT_REAL_DATA"):
        return
    kept, left = [], []
    for item in items:
        (left if item.get_closest_marker("realdata") else kept).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


@pytest.fixture(scope="session")
def _machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is measured of this machine once, so that not every test does it anew."""
    from creativewritinggpt import devices
    from creativewritinggpt.models.forward import linear
    from creativewritinggpt.models.forward.backends import fastest_weights

    folder = tmp_path_factory.mktemp("machine")
    # Kept between runs: measuring takes longer than most test files.
    kept = Path(tempfile.gettempdir()) / f"cwgpt-tests-{getpass.getuser()}"
    measured = kept / devices.cache_file().name
    if measured.is_file():  # its name alone: another worker's half-written copy may lie beside it
        shutil.copy(measured, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CWGPT_CACHE", str(folder))
        for threads in {1, torch.get_num_threads()}:
            devices.product_seconds(threads)
            linear.int8_seconds(threads)
            fastest_weights(threads)
        found = devices.cache_file()
    kept.mkdir(exist_ok=True)
    partial = kept / f"{found.stem}.{os.getpid()}.partial"
    shutil.copy(found, partial)
    os.replace(partial, kept / found.name)
    return found


@pytest.fixture(autouse=True)
def _closed_world(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: Any,
    _machine: Path,
) -> Iterator[None]:
    """A home of its own for every test, and no connection but to this machine."""
    home = tmp_path_factory.mktemp("home")
    (home / "cwgpt").mkdir()
    shutil.copy(_machine, home / "cwgpt")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    if not request.node.get_closest_marker("network"):
        monkeypatch.setenv("CWGPT_CACHE", str(home / "cwgpt"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elif "CWGPT_CACHE" not in os.environ:  # the starter is fetched once for all of them
        shared = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            shared = shared.parent
        monkeypatch.setenv("CWGPT_CACHE", str(shared / "network-cache"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("NO_COLOR", "1")
    audit.network = request.node.get_closest_marker("network") is not None
    audit.seen.clear()
    yield
    assert not audit.seen, audit.seen


@pytest.fixture
def real_data() -> Path:
    return Path(os.environ["CWGPT_REAL_DATA"])


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 384 tokens; ``<|endoftext|>`` is 0."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """A factory of small random models: ``tiny_model("gpt2" | "llama" | "qwen", seed=0)``."""

    def make(family: str = "gpt2", seed: int = 0, **changes: Any) -> Any:
        from transformers import (
            GPT2Config,
            GPT2LMHeadModel,
            LlamaConfig,
            LlamaForCausalLM,
            Qwen2Config,
            Qwen2ForCausalLM,
        )

        torch.manual_seed(seed)
        ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        if family == "gpt2":
            settings = {
                "vocab_size": 384,
                "n_layer": 2,
                "n_embd": 32,
                "n_head": 4,
                "n_positions": 128,
            }
            config = GPT2Config(**{**settings, **ids, **changes})
            model: Any = GPT2LMHeadModel(config)
        else:
            classes: dict[str, tuple[Any, Any]] = {
                "llama": (LlamaConfig, LlamaForCausalLM),
                "qwen": (Qwen2Config, Qwen2ForCausalLM),
            }
            config_class, model_class = classes[family]
            settings = {
                "vocab_size": 384,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 128,
                "tie_word_embeddings": True,
            }
            config = config_class(**{**settings, **ids, **changes})
            model = model_class(config)
        # Larger weights than usual, so that predictions differ from token to token.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def noisy() -> Callable[[Any], Any]:
    """Gives a model norms and biases that are not the ones and zeros of a fresh one."""

    def change(model: Any) -> Any:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        return model

    return change


@pytest.fixture
def tiny_folder(tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any) -> Callable[[str], Path]:
    """A factory of saved model folders: ``tiny_folder("llama")``."""

    from transformers.utils import logging

    logging.disable_progress_bar()

    def make(family: str = "gpt2") -> Path:
        folder = tmp_path / f"tiny-{family}"
        tiny_model(family).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def tiny_writer(tiny_model: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    """A factory of new writers: ``tiny_writer("gpt2" | "llama" | "qwen", seed=0)``."""

    def make(family: str = "gpt2", **changes: Any) -> Any:
        return make_writer(tiny_model(family, **changes), tiny_tokenizer)

    return make
