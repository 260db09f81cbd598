"""Models come from a folder or the hub, whole and trusted, or are refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from safetensors.torch import load_file, save_file

from creativewritinggpt.config.run import Config
from creativewritinggpt.devices import choose
from creativewritinggpt.errors import InputError, RunError
from creativewritinggpt.models import hub as hub_module
from creativewritinggpt.models.adapter import attach, save_model
from creativewritinggpt.models.hub import looks_like_hub_id
from creativewritinggpt.models.loading import load_base, load_model, resolve_base

CPU = choose("cpu", "fp32")
IDS = torch.tensor([[0, 5, 17, 200, 3, 99, 350, 42]])


@pytest.fixture
def client(monkeypatch: Any, tmp_path: Path) -> Any:
    """The hub client in this process, pointed at an address and an empty cache."""
    from huggingface_hub import constants

    def point(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))

    return point


@pytest.fixture
def hub(client: Any) -> Iterator[HubServer]:
    with HubServer() as server:
        client(server.url)
        yield server


@pytest.mark.parametrize("family", ("gpt2", "llama", "qwen"))
def test_a_folder_is_loaded_as_it_was_saved(family: str, tiny_folder: Any, tiny_model: Any) -> None:
    folder = tiny_folder(family)
    writer = load_model(str(folder), CPU)
    with torch.no_grad():
        expected = tiny_model(family)(input_ids=IDS).logits
        assert torch.equal(writer.model(input_ids=IDS).logits, expected)
    assert not writer.model.training
    assert (writer.kind, writer.name, writer.revision) == ("folder", str(folder), None)
    assert (writer.bos_id, writer.eos_id, writer.context_length) == (0, 0, 128)
    assert writer.tokenizer("The sea", add_special_tokens=True)["input_ids"][0] != 0


def test_weights_are_fp32_whatever_the_file_holds(
    tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tiny_tokenizer.save_pretrained(tmp_path / "half")
    writer = load_base(str(tmp_path / "half"), CPU)
    assert {p.dtype for p in writer.model.parameters()} == {torch.float32}


def test_the_dropouts_of_the_base_are_off(tiny_folder: Any) -> None:
    writer = load_base(str(tiny_folder("gpt2")), CPU)
    assert writer.model.config.attn_pdrop == 0
    writer.model.train()
    rates = {m.p for m in writer.model.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.0}
    first = writer.model(input_ids=IDS).logits
    assert torch.equal(writer.model(input_ids=IDS).logits, first)


def test_loading_says_nothing_by_itself(tiny_folder: Any, capfd: Any) -> None:
    folder = tiny_folder("gpt2")
    capfd.readouterr()
    load_model(str(folder), CPU)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def refused(folder: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load_model(str(folder), CPU)
    assert "\n" not in caught.value.message
    assert "\n" not in (caught.value.advice or "")
    return caught.value.message


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "config.json is missing" in refused(tmp_path)


def test_the_folder_above_the_model_is_told_where_it_is(tmp_path: Path, tiny_folder: Any) -> None:
    shutil.move(tiny_folder("gpt2"), tmp_path / "outputs" / "best_model")
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path / "outputs"), CPU)
    assert str(tmp_path / "outputs" / "best_model") in str(caught.value.advice)


def test_a_folder_without_weights_is_refused(tiny_folder: Any) -> None:
    folder = tiny_folder("gpt2")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused(folder)


def test_pickled_weights_are_refused_and_not_opened(tiny_folder: Any) -> None:
    folder = tiny_folder("gpt2")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"would run code")
    assert "no safetensors, only pytorch_model.bin" in refused(folder)


@pytest.mark.parametrize("damage", ("cut", "empty", "text", "header"))
def test_damaged_weights_are_refused(damage: str, tiny_folder: Any) -> None:
    file = tiny_folder("llama") / "model.safetensors"
    whole = file.read_bytes()
    content = {
        "cut": whole[: len(whole) * 2 // 3],
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\nsize 1\n",
        "header": b"\xff" * 8 + whole[8:],
    }[damage]
    file.write_bytes(content)
    assert "model.safetensors is damaged" in refused(file.parent)


def test_weights_that_are_not_numbers_are_refused(tiny_folder: Any) -> None:
    file = tiny_folder("llama") / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    assert "not numbers: model.norm.weight" in refused(file.parent)


def test_missing_and_misshapen_weights_are_refused_and_not_made_up(tiny_folder: Any) -> None:
    file = tiny_folder("llama") / "model.safetensors"
    weights = load_file(file)
    norm = weights.pop("model.norm.weight")
    save_file(weights, file, metadata={"format": "pt"})
    assert "no weights for model.norm.weight" in refused(file.parent)
    save_file({**weights, "model.norm.weight": norm[:5]}, file, metadata={"format": "pt"})
    assert "a wrong shape for model.norm.weight" in refused(file.parent)


def change_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_models_that_do_not_write_are_refused(tiny_folder: Any) -> None:
    folder = change_config(tiny_folder("gpt2"), architectures=["BertForMaskedLM"])
    assert "(BertForMaskedLM) fills gaps in texts" in refused(folder)
    assert "architectures is no list" in refused(change_config(folder, architectures=0.1))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "a recurrent state"),
        ({"model_type": "rwkv", "architectures": ["RwkvForCausalLM"]}, "a recurrent state"),
        (
            {"model_type": "qwen3_next", "layer_types": ["linear_attention", "full_attention"]},
            "a recurrent state",
        ),
        (
            {"model_type": "t5", "architectures": ["T5WithLMHeadModel"]},
            "is an encoder-decoder",
        ),
        (
            {"model_type": "bart", "architectures": ["BartModel"], "is_encoder_decoder": True},
            "is an encoder-decoder",
        ),
        ({"model_type": "whisper", "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, "fills gaps"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "fills gaps"),
        ({"model_type": "bert"}, "fills gaps"),
        (
            {
                "model_type": "gemma3",
                "architectures": ["Gemma3ForConditionalGeneration"],
                "vision_config": {"hidden_size": 8},
            },
            "works with pictures or sound",
        ),
        (
            {"model_type": "llava", "text_config": {}, "vision_config": {}},
            "works with pictures or sound",
        ),
        ({"model_type": "qwen2_audio", "audio_config": {}}, "works with pictures or sound"),
        (
            {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
            "gives labels",
        ),
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, "gives labels"),
        ({"model_type": "clip"}, "does not write text"),
        ({"model_type": "gpt7", "architectures": ["GPT7LMHeadModel"]}, "does not know"),
        (
            {"model_type": "gpt7", "auto_map": {"AutoModelForCausalLM": "m.GPT7"}},
            "Python code from its own folder",
        ),
        ({"model_type": "llama", "quantization_config": {"quant_method": "awq"}}, "(awq)"),
        ({"model_type": "mistral", "quantization": {"bits": 4, "group_size": 64}}, "(MLX)"),
        ({"architectures": ["GPT2LMHeadModel"]}, "no model_type"),
    ],
)
def test_what_can_not_be_used_is_refused_before_its_weights_are_read(
    config: dict[str, Any], why: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"never opened")
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path), CPU)
    assert why in caught.value.message
    assert caught.value.advice and "\n" not in caught.value.message


def test_a_model_without_a_cache_is_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    config = OpenAIGPTConfig(vocab_size=384, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    OpenAIGPTLMHeadModel(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert "keeps no keys and values" in refused(tmp_path)


def test_a_folder_of_ggufs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.Q4_K_M.gguf").write_bytes(b"GGUF")
    assert "a GGUF, which is not read" in refused(tmp_path)


def test_quantised_weights_are_refused(tiny_folder: Any) -> None:
    folder = change_config(tiny_folder("llama"), quantization_config={"quant_method": "gptq"})
    assert "quantised weights (gptq)" in refused(folder)


def test_code_in_a_model_folder_is_never_run(tiny_folder: Any, tmp_path: Path) -> None:
    folder = change_config(
        tiny_folder("gpt2"),
        model_type="strange",
        architectures=["StrangeForCausalLM"],
        auto_map={
            "AutoConfig": "strange.StrangeConfig",
            "AutoModelForCausalLM": "strange.StrangeForCausalLM",
        },
    )
    (folder / "strange.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "Python code from its own folder, which is never run" in refused(folder)
    assert not (tmp_path / "ran").exists()


def test_a_config_that_is_not_json_is_refused(tiny_folder: Any) -> None:
    folder = tiny_folder("gpt2")
    (folder / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refused(folder)


def test_a_folder_without_tokenizer_is_refused(tiny_folder: Any) -> None:
    for family in ("gpt2", "llama", "qwen"):
        folder = tiny_folder(family)
        for file in folder.glob("tokenizer*"):
            file.unlink()
        assert "tokenizer" in refused(folder), family


def test_a_tokenizer_larger_than_the_model_is_refused(
    tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    model = tiny_model("gpt2")
    model.resize_token_embeddings(200)
    model.save_pretrained(tmp_path / "small")
    tiny_tokenizer.save_pretrained(tmp_path / "small")
    assert "only 200 embeddings" in refused(tmp_path / "small")


def test_an_adapter_is_no_base(tiny_folder: Any, tmp_path: Path) -> None:
    writer = load_base(str(tiny_folder("gpt2")), CPU)
    attach(writer, Config())
    save_model(writer, tmp_path / "out", {}, "")
    with pytest.raises(InputError, match="is an adapter, not a base model"):
        load_base(str(tmp_path / "out"), CPU)


def test_missing_models_are_told_from_hub_ids(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("outputs/best_model", "runs/novel", "./novel", "/nowhere/x", "a/b/c", "novel/"):
        assert not looks_like_hub_id(name)
        with pytest.raises(InputError, match="there is no model folder"):
            resolve_base(name)
    for name in ("gpt2", "HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-0.5B"):
        assert looks_like_hub_id(name)
    (tmp_path / "novel.txt").write_text("text")
    with pytest.raises(InputError, match="is a file, not a model folder"):
        resolve_base("novel.txt")


def test_no_model_yet_says_how_to_get_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load_model()
    assert "cwgpt train" in str(caught.value.advice)
    assert "starter" in str(caught.value.advice)


@pytest.mark.parametrize("name", ("tiny/llama", "tiny-llama"))
def test_a_hub_model_is_fetched_once_and_its_revision_known(
    name: str, hub: HubServer, tiny_folder: Any, tiny_model: Any
) -> None:
    folder = tiny_folder("llama")
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    (folder / "modeling.py").write_text("never fetched")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    repository = hub.add("models", name, folder)
    writer = load_model(name, CPU)
    assert (writer.kind, writer.name, writer.base_name) == ("hub", name, name)
    assert writer.revision == repository.commit
    assert torch.equal(
        writer.model(input_ids=IDS).logits, tiny_model("llama")(input_ids=IDS).logits
    )
    fetched = "\n".join(hub.requests)
    for never in ("pytorch_model.bin", "modeling.py", "onnx"):
        assert f"/{never}" not in fetched
    count = len(hub.requests)
    load_model(name, CPU)
    assert len(hub.requests) == count


def test_a_fetch_that_breaks_off_goes_on(hub: HubServer, tiny_folder: Any) -> None:
    folder = tiny_folder("llama")
    repository = hub.add("models", "tiny/llama", folder)
    repository.breaks["model.safetensors"] = 2
    path = resolve_base("tiny/llama").path
    assert (path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert repository.breaks["model.safetensors"] == 0


def test_an_interrupted_fetch_is_completed_by_the_next(hub: HubServer, tiny_folder: Any) -> None:
    repository = hub.add("models", "tiny/llama", tiny_folder("llama"))
    repository.breaks["model.safetensors"] = 100
    with pytest.raises(RunError, match="could not be fetched") as caught:
        resolve_base("tiny/llama")
    assert "goes on where it stopped" in str(caught.value.advice)
    repository.breaks.clear()
    load_model("tiny/llama", CPU)


def test_a_hub_adapter_is_loaded_on_its_hub_base(
    hub: HubServer, tiny_folder: Any, tmp_path: Path
) -> None:
    base = hub.add("models", "tiny/llama", tiny_folder("llama"))
    writer = load_base("tiny/llama", CPU)
    attach(writer, Config())
    save_model(writer, tmp_path / "out", {}, "")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny/llama"
    assert config["revision"] == base.commit
    (tmp_path / "out" / "run.json").unlink()  # as from another PEFT client
    hub.add("models", "someone/style", tmp_path / "out")
    again = load_model("someone/style", CPU)
    assert again.has_adapter
    assert (again.name, again.base_name, again.revision) == (
        "someone/style",
        "tiny/llama",
        base.commit,
    )


def test_hub_models_that_can_not_be_had_are_named(hub: HubServer, tiny_folder: Any) -> None:
    with pytest.raises(InputError, match="the hub has no model tiny/none"):
        resolve_base("tiny/none")
    hub.add("models", "tiny/gated", tiny_folder("gpt2"), gated=True)
    with pytest.raises(InputError, match="accepted its terms"):
        resolve_base("tiny/gated")
    hub.add("models", "tiny/pickled", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(InputError, match="no safetensors, only pytorch_model.bin"):
        resolve_base("tiny/pickled")
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_without_a_network_a_cached_model_is_used_and_another_refused_quickly(
    client: Any, tiny_folder: Any
) -> None:
    with HubServer() as hub:
        client(hub.url)
        hub.add("models", "tiny/llama", tiny_folder("llama"))
        resolve_base("tiny/llama")
    client("http://127.0.0.1:9")
    assert resolve_base("tiny/llama").kind == "hub"
    start = time.monotonic()
    with pytest.raises(RunError, match="tiny/other is no folder and not in") as caught:
        resolve_base("tiny/other")
    assert time.monotonic() - start < 20
    for way in ("--model-name starter", "folder", "HF_HOME"):
        assert way in str(caught.value.advice)


def test_a_hub_that_never_answers_is_given_up(client: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(hub_module, "ANSWER_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client(f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(RunError, match="can't be reached"):
            resolve_base("tiny/other")
        assert time.monotonic() - start < 20


@pytest.mark.slow
def test_the_environment_points_a_real_process_at_the_hub(tiny_folder: Any, tmp_path: Path) -> None:
    program = (
        "from creativewritinggpt.models.loading import load_model\n"
        "writer = load_model('tiny/gpt2', 'cpu')\n"
        "print(writer.kind, writer.revision)\n"
    )
    with HubServer() as hub:
        repository = hub.add("models", "tiny/gpt2", tiny_folder("gpt2"))
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        environment["HF_HUB_OFFLINE"] = "0"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["hub", repository.commit], done.stderr
    assert done.stderr.splitlines() == ["fetching tiny/gpt2 from the hub, once"]


def test_an_adapter_with_another_tokenizer_than_its_base_is_refused(
    tiny_folder: Any, tmp_path: Path
) -> None:
    writer = load_base(str(tiny_folder("llama")), CPU)
    attach(writer, Config())
    save_model(writer, tmp_path / "adapter", {}, "card")
    assert load_model(str(tmp_path / "adapter"), "cpu").has_adapter
    file = tmp_path / "adapter" / "tokenizer.json"
    definition = json.loads(file.read_text("utf-8"))
    ids = definition["model"]["vocab"]
    ids["A"], ids["B"] = ids["B"], ids["A"]
    file.write_text(json.dumps(definition), "utf-8")
    with pytest.raises(InputError, match="another tokenizer than its base"):
        load_model(str(tmp_path / "adapter"), "cpu")


def test_classes_without_sdpa_get_eager_attention(tiny_tokenizer: Any, tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), "cpu", "fp32")
    assert model.model.config._attn_implementation == "eager"
    assert model.context_length == 64


def test_a_hub_model_that_can_not_be_used_is_refused_before_its_weights_are_fetched(
    hub: HubServer, tiny_folder: Any
) -> None:
    folder = change_config(tiny_folder("llama"), model_type="mamba", architectures=["MambaLM"])
    hub.add("models", "tiny/mamba", folder)
    assert "keeps a recurrent state" in refused("tiny/mamba")
    fetched = "\n".join(hub.requests)
    assert "config.json" in fetched and "model.safetensors" not in fetched
