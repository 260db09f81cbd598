"""The backends: each gives the model's own next-token logits, whatever is done to the cache."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from writers import make_writer

from creativewritinggpt.errors import InputError
from creativewritinggpt.models.forward import backends, linear
from creativewritinggpt.models.forward.backends import (
    TransformersBackend,
    backend_for,
    fastest_weights,
)
from creativewritinggpt.models.forward.linear import Int8, Workspace, quantize
from creativewritinggpt.models.forward.native_backend import BLOCK, NativeBackend
from creativewritinggpt.models.forward.onnx_int8 import onnx_available, quantize_groups
from creativewritinggpt.models.forward.weights import ModuleWeights, Unsupported

FAMILIES = ("gpt2", "llama", "qwen", "qwen3")
IDS = [5, 17, 200, 3, 99, 350, 42, 7, 7, 120, 33, 2]
# Largest difference of a logit; the logits' own spread is about 0.5.
TOLERANCE = {"fp32": 1e-5, "bf16": 0.15, "int8": 0.25, "onnx": 0.25}


@pytest.fixture
def family_model(tiny_model: Any) -> Any:
    def make(family: str, kind: str = "") -> Any:
        if kind == "onnx":
            pytest.importorskip("onnxruntime")
        if kind == "onnx" and family in ("llama", "qwen"):  # its operators want heads of 16
            return tiny_model(family, num_attention_heads=2, num_key_value_heads=1)
        if family != "qwen3":
            return tiny_model(family)
        from transformers import Qwen3Config, Qwen3ForCausalLM

        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=128,
        )  # fmt: skip
        model = Qwen3ForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4) if parameter.ndim > 1 else parameter.add_(
                    torch.rand_like(parameter)
                )
        return model

    return make


def native(model: Any, kind: str) -> NativeBackend:
    return NativeBackend(ModuleWeights(model), kind)


def logits_after(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8", "onnx", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_models_after_any_use_of_the_cache(
    family_model: Any, family: str, kind: str
) -> None:
    model = family_model(family, kind)
    backend: Any = TransformersBackend(model) if kind == "transformers" else native(model, kind)
    tolerance = TOLERANCE.get(kind, 1e-5)

    def same(logits: torch.Tensor, rows: list[list[int]]) -> None:
        assert logits.dtype == torch.float32 and logits.shape == (len(rows), 384)
        assert context.lengths == [len(row) for row in rows]
        for row, ids in zip(logits, rows, strict=True):
            error = float((row - logits_after(model, ids)).abs().max())
            assert error < tolerance

    context = backend.start(60)
    same(context.prefill(IDS), [IDS])
    same(context.prefill([8, 9, 10]), [[*IDS, 8, 9, 10]])
    context = context.fork([0, 0, 0])
    rows = [[*IDS, 8, 9, 10, token] for token in (1, 2, 3)]
    same(context.step([1, 2, 3]), rows)
    context.truncate(1, 5)
    context.truncate(2, 9)
    rows = [[*rows[0], 4], [*rows[1][:5], 5], [*rows[2][:9], 6]]
    same(context.step([4, 5, 6]), rows)
    context = backend.join([context.fork([2, 0]), context.fork([1])])
    rows = [[*rows[2], 11], [*rows[0], 12], [*rows[1], 13]]
    same(context.step([11, 12, 13]), rows)
    context = context.fork([2])
    context.truncate(0, 3)
    same(context.step([14]), [[*rows[2][:3], 14]])


@pytest.mark.parametrize("kind", ["int8", "onnx"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_of_8_bits_is_the_same_to_the_bit_in_any_batch(
    family_model: Any, family: str, kind: str
) -> None:
    model = family_model(family, kind)
    if kind == "onnx" and not backends.rows_are_independent(1):
        pytest.skip("this processor's kernels differ, and auto leaves them alone")
    backend = native(model, kind)
    context = backend.start(40)
    context.prefill(IDS)
    for count in (2, 3, 5, 8):
        many, rows = context.fork([0] * count), [context.fork([0]) for _ in range(count)]
        for step in range(4):
            tokens = [step * 9 + row for row in range(count)]
            together = many.step(tokens)
            for row, token in enumerate(tokens):
                assert torch.equal(together[row], rows[row].step([token])[0])
            many.truncate(step % count, 6 + step)
            rows[step % count].truncate(0, 6 + step)


@pytest.mark.parametrize("kind", ["fp32", "int8", "onnx"])
def test_a_reading_that_is_reused_gives_the_same_to_the_bit(tiny_model: Any, kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    model = tiny_model("llama", max_position_embeddings=4 * BLOCK, **heads)
    ids = torch.randint(1, 384, (3 * BLOCK,), generator=torch.Generator().manual_seed(0)).tolist()
    backend: Any = native(model, kind)
    fresh = native(model, kind)
    calls = []
    embed = backend.forward.embed
    backend.forward.embed = lambda ids, *rest: (calls.append(ids.numel()), embed(ids, *rest))[1]
    backend.read(ids[: 2 * BLOCK + 30], 4 * BLOCK)
    first = sum(calls)
    assert first == 2 * BLOCK + 30
    context, logits = backend.read(ids, 4 * BLOCK)
    assert sum(calls) - first == BLOCK  # two blocks were not read again
    theirs, wanted = fresh.read(ids, 4 * BLOCK)
    assert torch.equal(logits, wanted) and torch.equal(context.step([5]), theirs.step([5]))
    again, logits = backend.read(ids, 4 * BLOCK)
    assert sum(calls) - first == BLOCK + 1 and torch.equal(logits, wanted)
    # What is written after it, or over its end, does not show in the next reading.
    again.truncate(0, BLOCK - 7)
    again.step([3])
    context.truncate(0, 3 * BLOCK - 1)
    context.step([3])
    once_more, logits = backend.read(ids, 4 * BLOCK)
    theirs.truncate(0, 3 * BLOCK)
    assert torch.equal(logits, wanted)
    assert torch.equal(once_more.step([5]), theirs.step([5]))
    other, logits = backend.read([*ids[: 2 * BLOCK], 9], 4 * BLOCK)
    assert torch.equal(logits, native(model, kind).read([*ids[: 2 * BLOCK], 9], 600)[1])


def test_an_adapter_is_merged_and_can_be_switched_off(tiny_writer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    for family, targets in (("gpt2", ["c_attn", "mlp.c_proj"]), ("llama", ["q_proj", "down_proj"])):
        writer = tiny_writer(family)
        plain = logits_after(writer.model, IDS)
        lora = LoraConfig(
            r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False,
            fan_in_fan_out=family == "gpt2",
        )  # fmt: skip
        writer.model, writer.has_adapter = get_peft_model(writer.model, lora).eval(), True
        tuned = logits_after(writer.model, IDS)
        assert float((tuned - plain).abs().max()) > 0.05
        for weights in ("fp32", "transformers"):
            logits = backend_for(writer, weights).read(IDS, 20)[1][0]
            assert torch.allclose(logits, tuned, atol=1e-4)
            with writer.base():
                logits = backend_for(writer, weights).read(IDS, 20)[1][0]
                assert torch.allclose(logits, plain, atol=1e-5)


def test_a_backend_is_kept_until_the_weights_change(tiny_writer: Any) -> None:
    writer = tiny_writer("llama")
    backend = backend_for(writer, "int8")
    other = backend_for(writer, "fp32")
    assert backend_for(writer, "int8") is backend and backend.name == "int8"
    assert backend_for(writer, "fp32") is other and other.name == "fp32"
    with torch.no_grad():
        writer.model.model.layers[0].mlp.up_proj.weight.add_(1)
    assert backend_for(writer, "int8") is not backend


def test_auto_follows_the_precision_and_the_family(
    tiny_model: Any, tiny_tokenizer: Any, monkeypatch: Any
) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    monkeypatch.setattr(backends, "fastest_weights", lambda threads: "int8")
    model = tiny_model("gpt2")
    assert backend_for(make_writer(model, tiny_tokenizer)).name == "fp32"
    assert backend_for(make_writer(model, tiny_tokenizer, "bf16")).name == "int8"
    other = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=384, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=64,
        )
    ).eval()  # fmt: skip
    writer = make_writer(other, tiny_tokenizer)
    backend = backend_for(writer)
    assert backend.name == "transformers"
    assert torch.allclose(backend.read(IDS, 20)[1][0], logits_after(other, IDS), atol=1e-6)
    with pytest.raises(InputError, match="gpt_neox"):
        backend_for(writer, "int8")


@pytest.mark.parametrize(
    "changes", [{"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True}]
)
def test_variants_of_gpt2_are_left_to_transformers(tiny_model: Any, changes: Any) -> None:
    with pytest.raises(Unsupported):
        native(tiny_model("gpt2", **changes), "fp32")


def test_scaled_rotations_are_right_or_left_to_transformers(tiny_model: Any) -> None:
    for scaling in (
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 32},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ):  # fmt: skip
        model = tiny_model("llama", rope_parameters={"rope_theta": 10000.0, **scaling})
        logits = native(model, "fp32").read(IDS, 20)[1][0]
        assert torch.allclose(logits, logits_after(model, IDS), atol=1e-5), scaling
    dynamic = {"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 2.0}
    with pytest.raises(Unsupported):
        native(tiny_model("llama", rope_parameters=dynamic), "fp32")


def test_quantized_weights_are_nearest_multiples_of_their_scale() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 64) * torch.logspace(-6, 2, 40).unsqueeze(1)
    weight[3] = 0
    scales, whole = quantize(weight)
    assert scales.dtype == torch.bfloat16 and whole.dtype == torch.int8
    assert int(whole.abs().max()) == 127
    error = (weight - whole.float() * scales.float().unsqueeze(1)).abs()
    assert bool((error <= scales.float().unsqueeze(1) * 0.5001).all())


@pytest.mark.parametrize("outputs", [1, 7, 64, 513])
def test_int8_products_agree_with_exact_ones(outputs: int) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, 96), torch.randn(outputs)
    many = functools.partial(linear.Prefill, format="fp32", workspace=Workspace())
    matrix = Int8(weight, bias, many)
    for rows in (1, 3, 8, 9, 40):
        x = torch.randn(rows, 96).bfloat16()
        exact = x.float() @ weight.t() + bias
        error = (matrix(x).float() - exact).norm() / exact.norm()
        assert float(error) < 0.02, rows


def test_odd_widths_do_not_reach_the_int8_kernel(tiny_model: Any) -> None:
    # The kernel would read past the end of such a row.
    model = tiny_model("gpt2", n_embd=36, n_head=4)
    logits = native(model, "int8").read(IDS, 20)[1][0]
    assert float((logits - logits_after(model, IDS)).abs().max()) < TOLERANCE["bf16"]


@pytest.mark.parametrize("kind", ["int8"])
@pytest.mark.parametrize("many", ["bf16", "fp32", "int8"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_long_prompts_are_read_in_any_format(
    many: str, family: str, kind: str, family_model: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(linear, "prefill_format", lambda: many)
    model = family_model(family, kind)
    ids = (IDS * 10)[:40]
    context, logits = native(model, kind).read(ids, 60)
    assert float((logits[0] - logits_after(model, ids)).abs().max()) < TOLERANCE["int8"]
    logits = context.step([9])
    assert float((logits[0] - logits_after(model, [*ids, 9])).abs().max()) < TOLERANCE["int8"]


def test_grouped_weights_are_nearest_multiples_of_their_groups_scale() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 70) * torch.logspace(-6, 2, 40).unsqueeze(1)
    weight[3] = 0
    codes, scales = quantize_groups(weight)
    assert codes.shape == (40, 3, 32) and codes.dtype == torch.uint8
    found = ((codes.float() - 128) * scales.unsqueeze(-1)).view(40, -1)
    assert not found[:, 70:].any() and not found[3].any()
    limit = scales.repeat_interleave(32, 1)[:, :70] * 0.5001
    assert bool(((weight - found[:, :70]).abs() <= limit).all())


def test_heads_that_onnxruntime_does_not_know_are_left_to_int8(
    tiny_model: Any, monkeypatch: Any
) -> None:
    pytest.importorskip("onnxruntime")
    writer = make_writer(tiny_model("llama"), precision="bf16")  # heads of 8
    monkeypatch.setattr(backends, "fastest_weights", lambda threads: "onnx")
    assert backend_for(writer).name == "int8"
    with pytest.raises(InputError, match="heads of this size"):
        backend_for(writer, "onnx")


def test_an_old_onnxruntime_is_as_none(monkeypatch: Any) -> None:
    runtime = pytest.importorskip("onnxruntime")
    assert onnx_available()
    monkeypatch.setattr(runtime, "__version__", "1.18.1")
    assert not onnx_available()


def test_without_onnxruntime_nothing_asks_for_it(tiny_model: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(backends, "onnx_available", lambda: False)
    assert fastest_weights(1) in ("fp32", "int8")
    with pytest.raises(InputError, match="onnx, and onnxruntime is not installed"):
        backend_for(make_writer(tiny_model("llama")), "onnx")


def test_what_is_measured_decides_on_the_format(tiny_model: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(backends, "onnx_available", lambda: True)
    monkeypatch.setattr(backends, "measured", lambda question, ways, threads: dict(found))
    writer = make_writer(tiny_model("gpt2"))
    found: dict[str, float] = {}
    for best, second, independent, kind in (
        ("int8", "fp32", True, "int8"),
        ("fp32", "onnx", True, "fp32"),
        ("onnx", "fp32", True, "onnx"),
        ("onnx", "int8", False, "int8"),
        ("onnx", "fp32", False, "fp32"),
    ):
        found.update(dict.fromkeys(("fp32", "int8", "onnx"), 3.0))
        found.update({best: 1.0, second: 2.0})
        monkeypatch.setattr(backends, "rows_are_independent", lambda threads, so=independent: so)
        assert fastest_weights(1) == kind
    writer.device = dataclasses.replace(writer.device, approximate=True)
    monkeypatch.setattr(backends, "fastest_weights", lambda threads: "int8")
    assert backends.backend_for(writer).name == "int8"
    writer.device = dataclasses.replace(writer.device, approximate=False)
    assert backends.backend_for(writer).name == "fp32"


def test_the_measurement_itself_names_one_of_the_formats() -> None:
    assert fastest_weights(1) in ("fp32", "int8", "onnx")


def test_prompts_are_read_in_int8_only_where_it_is_worth_its_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "product_seconds", lambda threads: {"fp32": 1.0, "bf16": 2.0})
    for seconds, reading in ((0.3, "int8"), (0.7, "fp32"), (3.0, "fp32")):
        monkeypatch.setattr(linear, "int8_seconds", lambda threads, s=seconds: s)
        assert linear.prefill_format() == reading
