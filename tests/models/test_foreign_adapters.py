"""Adapters of other tools: made by PEFT itself, they give what PEFT gives, and the base stays."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from creativewritinggpt.analysis.methods.difference import compare, updates
from creativewritinggpt.analysis.subject import Subject
from creativewritinggpt.config.run import Config
from creativewritinggpt.devices import choose
from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.style import blend, set_strength
from creativewritinggpt.models.adapter import attach, merge, save_model
from creativewritinggpt.models.loading import load_base, load_model, use_tokenizer, wrap
from creativewritinggpt.models.scoring import body_and_head, head_nll

CPU = choose("cpu", "fp32")
IDS = torch.tensor([[0, 5, 17, 200, 3, 99, 350, 42]])
ADDED = 3


def target(family: str) -> list[str]:
    return ["c_attn"] if family == "gpt2" else ["q_proj", "v_proj"]


def table(family: str) -> str:
    return "wte" if family == "gpt2" else "embed_tokens"


def norm(family: str) -> str:
    return "ln_f" if family == "gpt2" else "norm"


# By name, the settings of PEFT that make it; ``None`` where the family has no such thing.
KINDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "bias_all": lambda f: {"bias": "all"},
    "bias_lora_only": lambda f: {"bias": "lora_only"},
    "lora_bias": lambda f: {"lora_bias": True},
    "saved_head": lambda f: {"modules_to_save": ["lm_head"]},
    "saved_head_and_table": lambda f: {"modules_to_save": ["lm_head", table(f)]},
    "saved_norm": lambda f: {"modules_to_save": [norm(f)]},
    "tokens": lambda f: {"trainable_token_indices": [5, 17, 99]},
    "table_lora": lambda f: {"target_modules": [*target(f), table(f)]},
    "head_lora": lambda f: {"target_modules": [*target(f), "lm_head"]},
    "dora": lambda f: {"use_dora": True},
    "rslora": lambda f: {"use_rslora": True, "r": 9},
    "layers": lambda f: {"layers_to_transform": [1]},
    "patterns": lambda f: {
        "rank_pattern": {target(f)[0]: 6},
        "alpha_pattern": {target(f)[0]: 48},
    },
    "pissa": lambda f: {"init_lora_weights": "pissa"},
    "replicated": lambda f: {"layer_replication": [[0, 2], [1, 2]]} if f == "llama" else {},
    "resized": lambda f: {},
    "resized_and_saved": lambda f: {"modules_to_save": ["lm_head", table(f)]},
}
NOT_BLENDED = {"replicated", "resized", "resized_and_saved"}
CASES = [
    pytest.param(family, tied, kind, id=f"{family}-{'tied' if tied else 'untied'}-{kind}")
    for family, tied in (("gpt2", True), ("llama", True), ("llama", False))
    for kind in KINDS
    if (family, kind) != ("gpt2", "replicated")
]


def disturb(model: Any, scale: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator) * scale


@pytest.fixture
def made(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Any:
    """Makes base and adapter of a kind as PEFT saves them; the folders, and PEFT's own model."""

    def make(family: str, tied: bool, kind: str, name: str = "adapter", **changes: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        base = tmp_path / f"base-{family}-{tied}"
        if not base.is_dir():
            model = tiny_model(family, tie_word_embeddings=tied)
            if family == "llama":
                model.config.num_hidden_layers = len(model.model.layers)
            model.save_pretrained(base)
            tiny_tokenizer.save_pretrained(base)
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(base)
        tokenizer = AutoTokenizer.from_pretrained(base)
        resized = kind.startswith("resized")
        if resized:
            tokenizer.add_tokens([f"<new{i}>" for i in range(ADDED)])
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        settings = {
            "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": target(family),
            "fan_in_fan_out": family == "gpt2", "base_model_name_or_path": str(base),
        }  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tuned = get_peft_model(model, LoraConfig(**settings | KINDS[kind](family) | changes))
            disturb(tuned)
            tuned.save_pretrained(tmp_path / name)
        if resized:
            tokenizer.save_pretrained(tmp_path / name)
        return base, tmp_path / name, tuned.eval()

    return make


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def plain(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base).eval()


def nll(model: Any) -> torch.Tensor:
    body, head = body_and_head(model)
    with torch.no_grad():
        return head_nll(body(input_ids=IDS, use_cache=False)[0, :-1], IDS[0, 1:], head)


def reference_nll(all_logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(all_logits[0, :-1], IDS[0, 1:], reduction="none")


@pytest.mark.parametrize(("family", "tied", "kind"), CASES)
def test_every_kind_gives_what_peft_gives_and_leaves_the_base(
    family: str, tied: bool, kind: str, made: Any
) -> None:
    base, folder, tuned = made(family, tied, kind)
    wanted, untouched = logits(tuned), logits(plain(base))
    loaded = load_model(str(folder), CPU)
    # Generation: by our own forward pass and by transformers.
    asked = GenerationSettings(temperature=0, max_new_tokens=3, repetition_penalty=1, heal=False)
    for weights in ("fp32", "transformers"):
        found = write(loaded, "the captain", asked.changed({"weights": weights}))[0]
        ids = [loaded.bos_id, *loaded.tokenizer("the captain")["input_ids"]]
        for token in found.tokens:
            following = logits(tuned, torch.tensor([ids]))[0, -1].log_softmax(-1)
            assert float(following[token.id]) == pytest.approx(token.logprob, abs=1e-5)
            ids.append(token.id)
    # Evaluation: base and tuned.
    assert torch.allclose(logits(loaded.model), wanted, atol=1e-5)
    assert torch.allclose(nll(loaded.model), reference_nll(wanted), atol=1e-5)
    with loaded.base():
        assert torch.equal(logits(loaded.model), untouched)
        assert torch.allclose(nll(loaded.model), reference_nll(untouched), atol=1e-5)
        again = logits(loaded.in_precision("fp32").model)
        assert torch.equal(again, untouched)
    assert torch.allclose(logits(loaded.model), wanted, atol=1e-5)
    # Explanation: what the tuning changed.
    ids = tuple(IDS[0].tolist())
    subject = Subject("", ids, ((0, 0),) * len(ids), (), 0)
    if len(wanted[0, 0]) == len(untouched[0, 0]):
        difference = compare(loaded, subject, attention=False)
        assert difference is not None
        change = reference_nll(untouched) - reference_nll(wanted)
        assert torch.allclose(
            torch.tensor(difference.change[1:], dtype=torch.float32), change, atol=1e-5
        )
        assert difference.updates
    else:
        with pytest.raises(InputError, match="different tokens"):
            compare(loaded, subject, attention=False)
    # Style.
    set_strength(loaded, 0.0)
    assert torch.equal(logits(loaded.model), untouched)
    set_strength(loaded, 1.0)
    assert torch.allclose(logits(loaded.model), wanted, atol=1e-5)
    if kind in NOT_BLENDED:
        with pytest.raises(InputError, match="tokens or layers of its own"):
            set_strength(loaded, 0.5)
    elif loaded.overlays is not None:  # else PEFT's own scale
        set_strength(loaded, 0.5)
        half = dict(loaded.model.named_parameters(remove_duplicate=False))
        set_strength(loaded, 1.0)
        whole = dict(loaded.model.named_parameters(remove_duplicate=False))
        for key, before in plain(base).named_parameters(remove_duplicate=False):
            assert torch.allclose(half[key], (before + whole[key]) / 2, atol=1e-6)


@pytest.mark.parametrize(("family", "tied", "kind"), CASES)
def test_training_goes_on_from_every_kind_and_comes_back(
    family: str, tied: bool, kind: str, made: Any, tmp_path: Path
) -> None:
    base, folder, tuned = made(family, tied, kind)
    loaded = load_base(str(base), CPU)
    use_tokenizer(loaded, folder)
    attach(loaded, Config(init_adapter=str(folder)))
    assert torch.allclose(logits(loaded.model), logits(tuned), atol=1e-5)
    trained = {n for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained >= {n for n, p in tuned.named_parameters() if p.requires_grad}
    parameters = [p for p in loaded.model.parameters() if p.requires_grad]
    body, head = body_and_head(loaded.model)
    head_nll(body(input_ids=IDS)[0, :-1], IDS[0, 1:], head).sum().backward()
    torch.optim.SGD(parameters, 0.01).step()
    reference = [p for p in tuned.parameters() if p.requires_grad]
    for parameter in reference:
        parameter.grad = None
    reference_loss = torch.nn.functional.cross_entropy(
        tuned(input_ids=IDS).logits[0, :-1], IDS[0, 1:], reduction="sum"
    )
    reference_loss.backward()
    torch.optim.SGD(reference, 0.01).step()
    after = logits(loaded.model.eval())
    assert torch.allclose(after, logits(tuned), atol=1e-4)
    with loaded.base():
        assert torch.equal(logits(loaded.model), logits(plain(base)))
    save_model(loaded, tmp_path / "trained", {}, "card")
    again = load_model(str(tmp_path / "trained"), CPU)
    assert torch.allclose(logits(again.model), after, atol=1e-5)
    with again.base():
        assert torch.equal(logits(again.model), logits(plain(base)))
    merge(again)
    assert torch.allclose(logits(again.model), after, atol=1e-5)


@pytest.mark.parametrize("kind", ("loha", "lokr", "ia3", "adalora", "oft", "vera"))
def test_other_kinds_that_can_be_merged_work(kind: str, made: Any, tmp_path: Path) -> None:
    import peft

    base, _, _ = made("llama", False, "bias_all")
    classes = {
        "loha": peft.LoHaConfig, "lokr": peft.LoKrConfig, "ia3": peft.IA3Config,
        "adalora": peft.AdaLoraConfig, "oft": peft.OFTConfig, "vera": peft.VeraConfig,
    }  # fmt: skip
    more: dict[str, Any] = {
        "ia3": {"feedforward_modules": []},
        "adalora": {"total_step": 10},
        "oft": {"oft_block_size": 4},
    }.get(kind, {})
    modules = ["q_proj"] if kind == "vera" else ["q_proj", "v_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(
            plain(base),
            classes[kind](
                task_type="CAUSAL_LM", target_modules=modules, base_model_name_or_path=str(base),
                **more,
            ),
        )  # fmt: skip
        disturb(tuned, 0.05)
        tuned.eval().save_pretrained(tmp_path / kind)
    loaded = load_model(str(tmp_path / kind), CPU)
    assert torch.allclose(logits(loaded.model), logits(tuned), atol=1e-4)
    with loaded.base():
        assert torch.equal(logits(loaded.model), logits(plain(base)))


@pytest.mark.parametrize("kind", ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "XLORA", "NEWKIND"))
def test_kinds_that_are_no_change_of_weights_are_refused_by_name(kind: str, made: Any) -> None:
    _, folder, _ = made("llama", False, "bias_all")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": kind}))
    with pytest.raises(InputError, match=kind) as caught:
        load_model(str(folder), CPU)
    assert caught.value.advice


def test_a_blend_is_the_weighted_sum_of_changes(made: Any) -> None:
    base, first, _ = made("llama", True, "saved_head", "first")
    _, second, _ = made("llama", True, "bias_lora_only", "second")
    _, third, _ = made("llama", True, "resized", "third")
    loaded = load_base(str(base), CPU)
    changes = []
    before = dict(plain(base).named_parameters(remove_duplicate=False))
    for folder in (first, second):
        tuned = dict(load_model(str(folder), CPU).model.named_parameters(remove_duplicate=False))
        changes.append({key: tuned[key] - before[key] for key in before})
    blend(loaded, [(str(second), 0.3), (str(first), 0.7)])
    found = dict(loaded.model.named_parameters(remove_duplicate=False))
    for key, weight in before.items():
        wanted = weight + 0.7 * changes[0][key] + 0.3 * changes[1][key]
        assert torch.allclose(found[key], wanted, atol=1e-6)
    assert loaded.model.lm_head.weight is not loaded.model.model.embed_tokens.weight
    with loaded.base():
        assert torch.equal(logits(loaded.model), logits(plain(base)))
    with pytest.raises(InputError, match="blended"):
        blend(loaded, [(str(first), 0.7), (str(third), 0.3)])


def test_formats_of_weights_know_such_an_adapter(made: Any) -> None:
    _, folder, tuned = made("llama", True, "saved_head_and_table")
    loaded = load_model(str(folder), CPU)
    ids = [loaded.bos_id, *loaded.tokenizer("the captain")["input_ids"]]
    wanted = logits(tuned, torch.tensor([ids]))[0, -1].log_softmax(-1)
    for weights, error in (("fp32", 1e-5), ("bf16", 0.2), ("int8", 0.2)):
        asked = GenerationSettings(
            temperature=0, max_new_tokens=1, repetition_penalty=1, weights=weights, heal=False
        )
        token = write(loaded, "the captain", asked)[0].tokens[0]
        assert token.logprob == pytest.approx(float(wanted[token.id]), abs=error)


def mlx_folder(base: Path, folder: Path, dora: bool = False) -> dict[str, torch.Tensor]:
    """An adapter as MLX saves it."""
    model = plain(base)
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for layer, rank in ((0, 4), (1, 2)):
        name = f"model.layers.{layer}.self_attn.q_proj"
        size = model.get_submodule(name).weight.shape
        tensors[f"{name}.lora_a"] = torch.randn(size[1], rank, generator=generator) * 0.2
        tensors[f"{name}.lora_b"] = torch.randn(rank, size[0], generator=generator) * 0.2
        if dora:
            tensors[f"{name}.m"] = torch.rand(size[0], generator=generator) + 0.5
    folder.mkdir()
    save_file(tensors, folder / "adapters.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "fine_tune_type": "dora" if dora else "lora",
                "model": str(base),
                "num_layers": 2,
                "lora_parameters": {"rank": 4, "scale": 3.0, "dropout": 0.0},
            }
        )  # fmt: skip
    )
    return tensors


@pytest.mark.parametrize("dora", (False, True))
def test_an_adapter_of_mlx_is_what_mlx_computes(dora: bool, made: Any, tmp_path: Path) -> None:
    base, _, _ = made("llama", True, "bias_all")
    tensors = mlx_folder(base, tmp_path / "mlx", dora)
    wanted = plain(base)
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj"
        weight = wanted.get_submodule(name).weight
        change = 3.0 * (tensors[f"{name}.lora_a"] @ tensors[f"{name}.lora_b"]).T
        weight.data = weight.data + change
        if dora:
            scale = tensors[f"{name}.m"] / torch.linalg.norm(weight.data, dim=1)
            weight.data = weight.data * scale[:, None]
    loaded = load_model(str(tmp_path / "mlx"), CPU)
    assert torch.allclose(logits(loaded.model), logits(wanted), atol=1e-5)
    with loaded.base():
        assert torch.equal(logits(loaded.model), logits(plain(base)))
    trained = load_base(str(base), CPU)
    attach(trained, Config(init_adapter=str(tmp_path / "mlx")))
    save_model(trained, tmp_path / "peft", {}, "card")
    assert torch.allclose(
        logits(load_model(str(tmp_path / "peft"), CPU).model), logits(wanted), atol=1e-5
    )


def test_a_full_fine_tuning_of_mlx_is_refused_with_the_way_out(made: Any, tmp_path: Path) -> None:
    base, _, _ = made("llama", True, "bias_all")
    mlx_folder(base, tmp_path / "mlx")
    path = tmp_path / "mlx" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fine_tune_type": "full"}))
    with pytest.raises(InputError, match="MLX") as caught:
        load_model(str(tmp_path / "mlx"), CPU)
    assert "mlx_lm.fuse" in str(caught.value.advice)


def test_a_pickle_is_refused_with_a_command_that_converts_it(made: Any) -> None:
    _, folder, tuned = made("llama", True, "bias_all")
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(InputError, match="pickle") as caught:
        load_model(str(folder), CPU)
    code = str(caught.value.advice).partition('python -c "')[2].rstrip('"')
    exec(code, {})
    assert torch.allclose(logits(load_model(str(folder), CPU).model), logits(tuned), atol=1e-5)


def test_settings_of_a_newer_version_are_named(made: Any, capsys: Any) -> None:
    _, folder, tuned = made("llama", True, "bias_all")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "from_tomorrow": True}))
    loaded = load_model(str(folder), CPU)
    assert "from_tomorrow" in capsys.readouterr().err
    assert torch.allclose(logits(loaded.model), logits(tuned), atol=1e-5)


def test_folders_of_other_tools_with_more_files_in_them(made: Any, tmp_path: Path) -> None:
    base, folder, tuned = made("llama", True, "saved_norm")
    checkpoint = folder.rename(tmp_path / "checkpoint-500")
    for name in ("optimizer.pt", "rng_state.pth", "training_args.bin", "chat_template.jinja"):
        (checkpoint / name).write_text("x")
    (checkpoint / "trainer_state.json").write_text("{}")
    assert torch.allclose(logits(load_model(str(checkpoint), CPU).model), logits(tuned), atol=1e-5)
    # The base named relative to the adapter's folder.
    path = checkpoint / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "base_model_name_or_path": f"./{base.name}"}))
    assert torch.allclose(logits(load_model(str(checkpoint), CPU).model), logits(tuned), atol=1e-5)
    path.write_text(json.dumps({**settings, "base_model_name_or_path": "/nowhere/base"}))
    with pytest.raises(InputError, match="/nowhere/base") as caught:
        load_model(str(checkpoint), CPU)
    assert "base_model_name_or_path" in str(caught.value.advice)


def test_added_tokens_without_embeddings(made: Any, tiny_tokenizer: Any, capsys: Any) -> None:
    from transformers import AutoTokenizer

    base, folder, tuned = made("llama", True, "bias_all")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    loaded = load_model(str(folder), CPU)
    assert "[PAD]" in capsys.readouterr().err
    assert torch.allclose(logits(loaded.model), logits(tuned), atol=1e-5)
    tokenizer.add_tokens(["dragonish"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="dragonish"):
        load_model(str(folder), CPU)


def test_the_base_refuses_tokens_that_the_adapter_added(made: Any) -> None:
    base, folder, _ = made("llama", False, "resized_and_saved")
    loaded = load_model(str(folder), CPU)
    ids = loaded.tokenizer("the <new1> captain")["input_ids"]
    assert max(ids) >= 384
    logits(loaded.model, torch.tensor([ids]))
    with loaded.base(), pytest.raises(InputError, match="which the adapter added"):
        logits(loaded.model, torch.tensor([ids]))


def test_weights_that_belong_nowhere_or_are_missing_are_named(made: Any) -> None:
    _, folder, _ = made("llama", False, "bias_all")
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "base_model.model.model.layers.0.mystery.weight": torch.ones(2)}, path)
    with pytest.raises(InputError, match="mystery"):
        load_model(str(folder), CPU)
    tensors.pop(next(key for key in tensors if "lora_A" in key))
    save_file(tensors, path)
    with pytest.raises(InputError, match="missing"):
        load_model(str(folder), CPU)


def test_a_wrapped_model_whose_base_was_changed_has_no_base(made: Any, tiny_tokenizer: Any) -> None:
    _, _, tuned = made("llama", False, "bias_all")
    loaded = wrap(tuned, tiny_tokenizer, "cpu", "fp32")
    with pytest.raises(InputError, match="bias is all"), loaded.base():
        pass


def test_updates_name_what_an_adapter_changed(made: Any) -> None:
    _, folder, _ = made("gpt2", True, "bias_all")
    names = {update.projection for update in updates(load_model(str(folder), CPU))}
    assert {"attn.c_attn", "attn.c_attn.bias", "mlp.c_fc.bias"} <= names


@pytest.mark.parametrize(
    "changes",
    ({"r": 0}, {"r": "x"}, {"lora_alpha": "many"}, {"r": None},
     {"base_model_name_or_path": 7}, {"peft_type": 3}),
)  # fmt: skip
def test_odd_settings_are_an_error_in_a_line(changes: Any, made: Any) -> None:
    _, folder, _ = made("llama", False, "rslora")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError):
        load_model(str(folder), CPU)
