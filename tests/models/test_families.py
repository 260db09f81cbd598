"""Every family of models trains, writes and is scored as a plain loop of transformers would."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import EXPERTS, FAMILIES, POSITIONS, VOCABULARY
from torch.nn import functional as F
from writers import as_tokens, make_writer

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.rows.packing import IGNORE, plan_rows
from creativewritinggpt.devices import choose
from creativewritinggpt.evaluation.scoring import Window, windows_nll
from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.text import encode, vocabulary
from creativewritinggpt.models.adapter import attach, merge
from creativewritinggpt.models.forward.backends import TransformersBackend
from creativewritinggpt.models.loaded_model import LoadedModel
from creativewritinggpt.models.loading import context_length, load_model
from creativewritinggpt.models.scoring import body_and_head, token_nll
from creativewritinggpt.training.checkpoint import trained_parameters
from creativewritinggpt.training.loss import accumulate_gradient, summed_loss

pytestmark = pytest.mark.invariant
every_family = pytest.mark.parametrize("family", FAMILIES)
# Longer than the windows of the families that have one.
LENGTHS = (3, 17, 1, 24, 9, 30, 12)
MAX_LENGTH = 40


def documents(seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, VOCABULARY, length).tolist() for length in LENGTHS]


def packed(texts: list[list[int]]) -> Any:
    return plan_rows(as_tokens(texts), max_length=MAX_LENGTH, bos_id=0, eos_id=0)


@functools.cache
def shared_model(family: str) -> Any:
    """For tests that change nothing of it."""
    return FAMILIES[family].model()


def own_writer(family: str, *, adapter: bool = False) -> LoadedModel:
    writer = make_writer(FAMILIES[family].model())
    writer.context_length = POSITIONS
    if adapter:
        attach(writer, Config(lora_dropout=0.0))
        with torch.no_grad():
            for name, value in writer.model.named_parameters():
                if "lora_B" in name:
                    value.normal_(0, 0.1)
    writer.model.eval()
    return writer


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def nll_of(model: Any, ids: list[int]) -> torch.Tensor:
    """Of every token and of the end, given the start token."""
    logits = logits_of(model, [0, *ids])
    return F.cross_entropy(logits, torch.tensor([*ids, 0]), reduction="none")


@every_family
def test_body_and_head_give_the_models_logits(family: str) -> None:
    model = shared_model(family)
    body, head = body_and_head(model)
    ids = documents()[5]
    with torch.no_grad():
        found = head.logits(body(input_ids=torch.tensor([ids]), use_cache=False))[0]
    torch.testing.assert_close(found, logits_of(model, ids), atol=1e-5, rtol=1e-5)


@every_family
def test_packed_loss_equals_separate_loss(family: str) -> None:
    model, texts = shared_model(family), documents()
    rows = packed(texts)
    batch = rows.take(np.arange(len(rows)))
    alone = [nll_of(model, ids) for ids in texts]
    writer = make_writer(model)
    found = token_nll(writer, batch)
    total = sum(float(nll.double().sum()) for nll in alone)
    assert found.sum() == pytest.approx(total, rel=1e-5)
    assert (batch.targets != IGNORE).sum() == sum(map(len, alone))
    np.testing.assert_allclose(
        np.sort(found[batch.targets != IGNORE]), np.sort(torch.cat(alone)), atol=2e-5, rtol=2e-5
    )
    with torch.no_grad():
        assert float(summed_loss(writer, batch)) == pytest.approx(total, rel=1e-5)


@every_family
def test_a_document_does_not_see_its_neighbours(family: str) -> None:
    body, _ = body_and_head(shared_model(family))
    ids = torch.tensor([sum(documents()[1:4], [])])
    segments = torch.tensor([[1] * 17 + [2] + [3] * 24])
    positions = torch.cat([torch.arange(17), torch.arange(1), torch.arange(24)])[None]
    changed = ids.clone()
    changed[0, :17] = (changed[0, :17] + 100) % VOCABULARY
    with torch.no_grad():
        before, after = (body.packed(row, segments, positions)[0] for row in (ids, changed))
    assert not torch.equal(before[:17], after[:17])
    assert torch.equal(before[17:], after[17:])


@every_family
def test_any_micro_batch_gives_the_same_gradient(family: str) -> None:
    writer = own_writer(family, adapter=True)
    rows = packed(documents())
    found = []
    for batch_size in (len(rows), 1):
        writer.model.zero_grad(set_to_none=True)
        loss, tokens = accumulate_gradient(writer, rows, np.arange(len(rows)), batch_size)
        parameters = trained_parameters(writer.model)
        found.append((loss, {name: p.grad.clone() for name, p in parameters.items()}))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-6)
    assert any(float(gradient.abs().max()) > 0 for gradient in found[0][1].values())


@every_family
def test_the_gradient_is_that_of_transformers_own_loss(family: str) -> None:
    writer = own_writer(family, adapter=True)
    texts = documents()[:4]
    rows = packed(texts)
    loss, tokens = accumulate_gradient(writer, rows, np.arange(len(rows)), 2)
    ours = {name: p.grad.clone() for name, p in trained_parameters(writer.model).items()}
    writer.model.zero_grad(set_to_none=True)
    total = 0.0
    for ids in texts:
        logits = writer.model(input_ids=torch.tensor([[0, *ids]]), use_cache=False).logits[0]
        nll = F.cross_entropy(logits.float(), torch.tensor([*ids, 0]), reduction="sum") / tokens
        nll.backward()
        total += float(nll.detach())
    assert loss == pytest.approx(total, rel=1e-5)
    for name, parameter in trained_parameters(writer.model).items():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-5)


@every_family
def test_validation_is_the_same_for_any_batch_size(family: str) -> None:
    writer, rows = make_writer(shared_model(family)), packed(documents())
    batch = rows.take(np.arange(len(rows)))
    found = [token_nll(writer, batch, size) for size in (1, 3, 1)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_array_equal(found[0], found[2])


@every_family
def test_step_0_is_the_base_and_training_leaves_it_bit_equal(family: str) -> None:
    writer = make_writer(FAMILIES[family].model())
    kept = {name: p.detach().clone() for name, p in writer.model.named_parameters()}
    ids, rows = documents()[5], packed(documents())
    base = logits_of(writer.model, ids)
    attach(writer, Config(lora_dropout=0.0))
    writer.model.eval()
    assert torch.equal(logits_of(writer.model, ids), base)
    optimizer = torch.optim.AdamW(trained_parameters(writer.model).values(), lr=0.01)
    losses = []
    for _ in range(4):
        losses.append(accumulate_gradient(writer, rows, np.arange(len(rows)), 2)[0])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert losses[-1] < losses[0]
    tuned = logits_of(writer.model, ids)
    assert not torch.equal(tuned, base)
    with writer.base():
        assert torch.equal(logits_of(writer.model, ids), base)
    names = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): p
        for name, p in writer.model.named_parameters()
        if "lora_" not in name
    }
    assert all(torch.equal(names[name], value) for name, value in kept.items())
    merge(writer)
    torch.testing.assert_close(logits_of(writer.model, ids), tuned, atol=1e-5, rtol=1e-5)


@every_family
def test_writing_equals_the_full_forward_pass(family: str) -> None:
    """After any use of the cache: forks, cuts, rows of several lengths, beyond the window."""
    model = shared_model(family)
    ids = documents()[5]
    backend = TransformersBackend(model)

    def check(logits: torch.Tensor, rows: list[list[int]]) -> None:
        assert context.lengths == [len(row) for row in rows]
        for found, row in zip(logits, rows, strict=True):
            torch.testing.assert_close(found, logits_of(model, row)[-1], atol=2e-5, rtol=2e-5)

    context: Any = backend.start(POSITIONS)
    check(context.prefill(ids[:14]), [ids[:14]])
    check(context.prefill(ids[14:17]), [ids[:17]])
    context = context.fork([0, 0, 0])
    rows = [[*ids[:17], token] for token in (1, 2, 3)]
    check(context.step([1, 2, 3]), rows)
    context.truncate(1, 5)
    context.truncate(2, 11)
    for token in range(4, 14):
        rows = [[*rows[0], token], [*rows[1], token + 1], [*rows[2], token + 2]]
        if token == 4:
            rows = [rows[0], [*ids[:5], 5], [*ids[:11], 6]]
        check(context.step([token, token + 1, token + 2]), rows)
    context = backend.join([context.fork([2, 0]), context.fork([1])])
    rows = [[*rows[2], 11], [*rows[0], 12], [*rows[1], 13]]
    check(context.step([11, 12, 13]), rows)
    context = context.fork([1])
    context.truncate(0, 9)
    check(context.prefill([14, 15]), [[*rows[1][:9], 14, 15]])


@every_family
def test_evaluation_equals_a_plain_loop(family: str) -> None:
    model, texts = shared_model(family), documents()
    writer = make_writer(model)
    writer.context_length = POSITIONS
    windows = [
        Window(number, np.array([0, *ids]), np.array([*ids, 0])) for number, ids in enumerate(texts)
    ]
    for found, ids in zip(windows_nll(writer, windows), texts, strict=True):
        np.testing.assert_allclose(found, nll_of(model, ids), atol=2e-5, rtol=2e-5)


def test_a_model_without_positions_gets_the_length_of_its_training(capsys: Any) -> None:
    config = shared_model("bloom").config
    assert context_length(config) == 2048
    assert "2,048 tokens" in capsys.readouterr().err
    config.seq_length = 4096
    assert context_length(config) == 4096


TEXT = (
    "Once upon a time a king had three daughters. The ferry was late, and the lamp went out. " * 8
)


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def sentencepiece_folder(request: Any, tmp_path_factory: Any) -> Any:
    """A model whose tokenizer has a mark for the space, bytes for rare letters, and a BOS."""
    from corpora import TEXT
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GemmaTokenizer, LlamaTokenizer

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    special = (
        ["<unk>", "<s>", "</s>"]
        if request.param == "llama"
        else ["<pad>", "<eos>", "<bos>", "<unk>"]
    )
    special += [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT.replace("“", "").replace("”", "").split(". "), trainer)
    found = json.loads(tokenizer.to_str())["model"]
    kind = LlamaTokenizer if request.param == "llama" else GemmaTokenizer
    folder = tmp_path_factory.mktemp("sentencepiece")
    merges = [tuple(pair) for pair in found["merges"]]
    kind(vocab=found["vocab"], merges=merges).save_pretrained(folder)
    FAMILIES[request.param].model().save_pretrained(folder)
    return folder


def test_sentencepiece_tokenizers_train_and_write(sentencepiece_folder: Any) -> None:
    model = load_model(str(sentencepiece_folder), choose("cpu", "fp32", 1))
    text = "The lamp went out — “naïve”,  3 men.\n\nNobody answered 🙂"
    ids = encode(model.tokenizer, text)
    assert model.bos_id not in ids and model.eos_id not in ids and model.bos_id != model.eos_id
    assert model.tokenizer.decode(ids).strip() == text
    words = vocabulary(model.tokenizer)
    assert b"".join(words.bytes_of(token) for token in ids).decode().strip() == text

    rows = plan_rows(as_tokens([ids]), max_length=256, bos_id=model.bos_id, eos_id=model.eos_id)
    batch = rows.take(np.arange(len(rows)))
    assert batch.input_ids[0, 0] == model.bos_id
    assert batch.targets[0][batch.targets[0] != IGNORE][-1] == model.eos_id
    assert np.isfinite(token_nll(model, batch)).all()

    settings = GenerationSettings(max_new_tokens=24, temperature=1.0, seed=1, heal=False)
    [completion] = write(model, "The lamp went", settings)
    tokens = [token.id for token in completion.tokens]
    whole = model.tokenizer.decode(
        [*encode(model.tokenizer, "The lamp went"), *tokens], skip_special_tokens=True
    )
    # Bytes that are no character, as random weights write them, are shown as one or as many.
    found, wanted = ("The lamp went" + completion.text), whole.removeprefix(" ")
    assert found[:14] == wanted[:14]


def test_the_docs_list_what_is_tested() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", page, re.MULTILINE)
    assert [name for name, _ in rows] == list(FAMILIES)
    for name, cells in rows:
        model = shared_model(name)
        body, _ = body_and_head(model)
        assert ("✓ rows" in cells) == (not body.takes_masks), name
        assert ("✓ experts" in cells) == (name in EXPERTS), name
        assert ("eager" in cells) == (model.config._attn_implementation == "eager"), name
