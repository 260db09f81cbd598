"""The basis in which no column stands out: the same model, and fewer digits suffice for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from creativewritinggpt.generation import gpt2_forward, llama_forward
from creativewritinggpt.generation.basis import Flat, Rotated
from creativewritinggpt.generation.cache import KeyValueCache, Reading
from creativewritinggpt.generation.matrices import Dense
from creativewritinggpt.generation.native_backend import NativeBackend
from creativewritinggpt.generation.onnx_matrices import ByRow

# Wide enough that a column can stand out, with heads that onnxruntime's operators know.
_LLAMA = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4}
WIDE: dict[str, dict[str, int]] = {
    "gpt2": {"n_embd": 128, "n_head": 4}, "llama": _LLAMA, "qwen": _LLAMA
}  # fmt: skip
IDS = [5, 17, 200, 3, 99, 350, 42, 7, 7, 120, 33, 2]


def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1]


def _noisy(model: Any) -> Any:
    """Norms and biases that are not the ones and zeros of a fresh model."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def _own(forward: Any, ids: list[int]) -> torch.Tensor:
    """Logits after ``ids`` by the forward pass in torch."""
    cache = KeyValueCache(
        len(forward.layers), forward.heads, forward.size, 1, len(ids), forward.dtype
    )
    with torch.inference_mode():
        places = torch.arange(len(ids))
        x = forward.hidden(torch.tensor(ids), places, Reading(cache, 0, len(ids)))
        return forward.logits(x[-1:])[0]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12, 36, 64, 100, 576, 768])
def test_the_matrix_is_orthogonal_symmetric_and_flat(size: int) -> None:
    flat = Flat(size)
    matrix = flat.rows(torch.eye(size))
    assert torch.allclose(matrix @ matrix, torch.eye(size), atol=1e-5)
    assert torch.allclose(matrix, matrix.T, atol=1e-6)
    assert torch.allclose(flat.columns(torch.eye(size)), matrix, atol=1e-6)
    assert float(matrix.abs().max()) <= (2 / size) ** 0.5 + 1e-6
    x = torch.randn(3, 5, size)
    assert torch.allclose(flat.rows(x), x @ matrix, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_without_rounding_the_model_is_the_same(
    family: str, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exact(kind: str) -> Any:
        return (lambda weight, bias: Dense(weight, bias, torch.float32)), torch.float32

    module = gpt2_forward if family == "gpt2" else llama_forward
    monkeypatch.setattr(module, "maker", exact)
    model = _noisy(tiny_model(family))
    make: Any = module.GPT2Forward if family == "gpt2" else module.LlamaForward  # type: ignore[attr-defined]
    with torch.inference_mode():
        forward = make(model, "rotated")
    assert torch.allclose(_own(forward, IDS), _logits(model, IDS), atol=1e-4)
    # And the basis is another one.
    first = forward.basis.enter(forward.embed(torch.tensor(IDS), torch.arange(len(IDS))))
    assert not torch.allclose(first, forward.embed(torch.tensor(IDS), torch.arange(len(IDS))))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_columns_that_stand_out_cost_no_digits(family: str, tiny_model: Any) -> None:
    pytest.importorskip("onnxruntime")
    model = _noisy(tiny_model(family, **WIDE[family]))
    embedding = model.get_input_embeddings().weight
    body = model.base_model
    kinds = ("norm", "ln_1", "ln_2", "ln_f")
    norms = [module for name, module in body.named_modules() if name.endswith(kinds)]
    assert norms
    with torch.no_grad():
        embedding[:, 3] += 30 * torch.sign(embedding[:, 3])
        for norm in norms:  # models learn to turn such a column down
            norm.weight[3] = 0.02
    wanted = _logits(model, IDS)
    rotated = NativeBackend(model, "rotated").read(IDS, 20)[1][0]
    plain = _plain_by_row(model, family)
    error, without = ((found - wanted).norm() for found in (rotated, plain))
    assert float(error) < 0.5 * float(without), (error, without)


def _plain_by_row(model: Any, family: str) -> torch.Tensor:
    """Logits with the same rounding in the model's own basis."""
    module: Any = gpt2_forward if family == "gpt2" else llama_forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "maker", lambda kind: (ByRow, torch.float32))
        with torch.inference_mode():
            make = module.GPT2Forward if family == "gpt2" else module.LlamaForward
            return _own(make(model, "fp32"), IDS)


def test_rows_and_neighbouring_weights_stay_within_their_limits() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 71) * torch.logspace(-6, 2, 40).unsqueeze(1)
    weight[3] = 0
    weight[4, 10:12] = weight[4].abs().max() * 3  # two neighbours that are the largest
    matrix = ByRow(weight, torch.randn(40))
    codes = matrix.codes.int()
    assert codes.shape == (71, 40) and int(codes.abs().max()) == 127
    assert int((codes[0:70:2] + codes[1:70:2]).abs().max()) <= 168
    assert not codes[:, 3].any()
    error = (weight - (codes * matrix.scales).t()).abs()
    assert bool((error <= matrix.scales.unsqueeze(1) * 0.5001).all())
    x = torch.randn(9, 71)
    x[2] = 0
    exact = x @ weight.t() + matrix.offset
    assert float((matrix(x) - exact).norm() / exact.norm()) < 0.02
    assert torch.equal(matrix(x)[2], matrix.offset)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_onnxruntime_computes_what_the_forward_pass_in_torch_does(
    family: str, tiny_model: Any
) -> None:
    pytest.importorskip("onnxruntime")
    model = _noisy(tiny_model(family, **WIDE[family]))
    backend: Any = NativeBackend(model, "rotated")
    together = backend.read(IDS, 20)[1][0]
    context, _ = backend.read(IDS[:1], 20)
    for token in IDS[1:]:
        logits = context.step([token])
    own = _own(backend.forward, IDS)
    for found in (together, logits[0]):
        assert float((found - own).norm() / own.norm()) < 0.05
    assert isinstance(backend.forward.basis, Rotated)
