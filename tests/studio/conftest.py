"""Studios that run as processes, and watched pages of them in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser as browsers
import pytest
from parrot import save_parrot

WORDS = " The lamp went, out."


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, started once."""
    reason = browsers.missing()
    if reason:
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browsers.chromium(), args=[*browsers.FLAGS, browsers.NO_OUTSIDE]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def parrot_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A model that writes :data:`WORDS` over and over."""
    return save_parrot(tmp_path_factory.mktemp("parrot"), tiny_tokenizer, WORDS, 1024)


@pytest.fixture(scope="session")
def random_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tiny_tokenizer: Any
) -> Path:
    """A small random GPT-2, which writes something else for every seed."""
    folder = tmp_path_factory.mktemp("random")
    tiny_model("gpt2", n_positions=1024).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, random_folder: Path) -> tuple[Path, Path]:
    """Two adapters of the random model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"tuned-{seed}")
        network = AutoModelForCausalLM.from_pretrained(random_folder)
        config = LoraConfig(
            r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True
        )
        adapted = get_peft_model(network, config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, value in adapted.named_parameters():
                if "lora_B" in name:
                    value.normal_(0, 0.5)
        adapted.save_pretrained(folder)
        AutoTokenizer.from_pretrained(random_folder).save_pretrained(folder)
        found.append(folder)
    return found[0], found[1]


@pytest.fixture(scope="session")
def tuned_folder(adapters: tuple[Path, Path]) -> Path:
    """An adapter of the random model."""
    return adapters[0]


@pytest.fixture
def studio(
    tmp_path: Path, parrot_folder: Path, random_folder: Path
) -> Iterator[Callable[..., browsers.RunningStudio]]:
    """A factory of running studios: ``studio(model="parrot" | "random" | folder, delay=0.02)``."""
    running: list[browsers.RunningStudio] = []

    def start(model: Any = "parrot", **options: Any) -> browsers.RunningStudio:
        folder = options.pop("folder", None) or tmp_path / f"studio-{len(running)}"
        folder.mkdir(exist_ok=True)
        known = {"parrot": parrot_folder, "random": random_folder}
        made = browsers.RunningStudio(folder, known.get(model, model), **options)
        running.append(made)
        return made

    yield start
    for one in running:
        if one.popen.poll() is None:
            one.popen.kill()
            one.popen.wait(20)


@pytest.fixture
def watch() -> browsers.Watch:
    """What the pages of this test did that they must not; ``watch.allow(pattern)`` for faults."""
    return browsers.Watch()


@pytest.fixture
def new_context(chromium: Any, watch: browsers.Watch) -> Iterator[Callable[..., Any]]:
    """A factory of watched browser contexts; the test fails for what they must not do."""
    contexts: list[Any] = []

    def make(**options: Any) -> Any:
        context = chromium.new_context(**options)
        watch.attach(context)
        contexts.append(context)
        return context

    yield make
    for one in contexts:
        one.close()
    watch.check()


@pytest.fixture
def page_of(new_context: Any) -> Callable[..., Any]:
    """A factory of pages: ``page_of(studio())``; options are those of a browser context."""

    def make(studio: browsers.RunningStudio, **options: Any) -> Any:
        return browsers.open_page(new_context(**options), studio)

    return make


@pytest.fixture
def make_studio(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Makes studios in this process, without a page."""
    from tests.studio_page import studios

    monkeypatch.chdir(tmp_path)
    with studios(tmp_path, tiny_tokenizer) as make:
        yield make
