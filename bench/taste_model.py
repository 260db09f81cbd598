"""The small model of the bench on learning from choices: made, written with, measured.

A Llama of about a million weights with a vocabulary of 1,024, trained from nothing on the texts
that are given. Habits are put into them (``taste_writers.with_habits``), so that its drafts have
what a writer can dislike.

Drafts all have the same number of tokens (the length is no matter of taste here), and each token
is drawn with a random number that belongs to the prompt, the draft and the place: two models that
hardly differ write the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from taste_writers import with_habits
from torch.nn import functional as F

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import read_documents
from creativewritinggpt.data.text import sentences
from creativewritinggpt.models.loaded_model import LoadedModel
from creativewritinggpt.models.loading import load_model

VOCABULARY, WIDTH, LAYERS, HEADS, POSITIONS = 1024, 128, 4, 4, 256
END = "<|endoftext|>"
ROW, BATCH, RATE, EPOCHS = 128, 32, 3e-3, 2
PROMPT, DRAFT = 12, 48  # tokens
TEMPERATURE, TOP_K = 0.9, 50
_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'"})
SAVED_EVERY = 50  # steps


class Unfinished(Exception):
    """The time is over before the small model is trained; the next call goes on."""


def texts(files: Sequence[str], habits: bool) -> tuple[list[str], list[str], list[str]]:
    """Texts to train the model on, to choose in and to judge on; 80, 10 and 10 % of them.

    Args:
        files: Files with texts.
        habits: Whether the model's habits are put into them.
    """
    generator = np.random.default_rng(0)
    read = read_documents(files, Config())
    found = [" ".join(one.text.translate(_PLAIN).split()) for one in read]
    order = generator.permutation(len(found))
    known = [with_habits(found[i], generator) if habits else found[i] for i in order]
    first, second = int(0.8 * len(known)), int(0.9 * len(known))
    return known[:first], known[first:second], known[second:]


def make(folder: Path, known: Sequence[str], deadline: float) -> None:
    """Train the small model and its vocabulary; what is there already is kept.

    Args:
        folder: Where it is written.
        known: The texts.
        deadline: ``time.monotonic()`` at which it stops.

    Raises:
        Unfinished: The deadline came; the state is saved.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    written = Tokenizer(models.BPE())
    written.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    written.decoder = decoders.ByteLevel()
    written.train_from_iterator(known, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))  # fmt: skip
    ids = np.concatenate([[0, *one.ids] for one in written.encode_batch(list(known))])
    rows = torch.as_tensor(ids[: len(ids) // ROW * ROW].reshape(-1, ROW))
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=int(2.75 * WIDTH),
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=POSITIONS,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    ))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    steps = EPOCHS * max(1, len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps + 1, pct_start=0.05)
    order = torch.cat([torch.randperm(len(rows)) for _ in range(EPOCHS)])
    state, done = folder / "state.pt", 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        done = saved["step"]
    for step in range(done, steps):
        if step % SAVED_EVERY == 0 or time.monotonic() > deadline:
            _save(state, model, optimizer, schedule, step)
        if time.monotonic() > deadline:
            raise Unfinished(f"the small model is at step {step} of {steps}")
        batch = rows[order[step * BATCH : (step + 1) * BATCH]]
        loss = F.cross_entropy(model(batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    PreTrainedTokenizerFast(
        tokenizer_object=written, bos_token=END, eos_token=END, unk_token=END
    ).save_pretrained(folder)
    model.save_pretrained(folder)  # with config.json, which says that it is whole
    state.unlink(missing_ok=True)


def _save(file: Path, model: Any, optimizer: Any, schedule: Any, step: int) -> None:
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    temporary = file.with_suffix(".part")
    torch.save({name: one.state_dict() for name, one in parts.items()} | {"step": step}, temporary)
    os.replace(temporary, file)


def load(name: str) -> LoadedModel:
    """A model by name, as transformers has it."""
    loaded = load_model(name, "cpu", "fp32" if name != "starter" else "auto")
    loaded.model.eval()
    return loaded


def prompts(loaded: LoadedModel, known: Sequence[str], count: int, seed: int) -> list[list[int]]:
    """Tokens before places where a sentence ends, equally many everywhere."""
    generator = np.random.default_rng(seed)
    found: list[list[int]] = []
    for number in generator.permutation(len(known)).tolist():
        parts, before = sentences(known[number]), 0
        places = []
        for part in parts[:-1]:
            before = known[number].index(part, before) + len(part)
            places.append(before)
        # A long text gives many, a short one few.
        for end in generator.permutation(places)[: 1 + len(places) // 5].tolist():
            ids = loaded.tokenizer.encode(known[number][max(0, end - 400) : end])
            if len(ids) > PROMPT:
                found.append(ids[-PROMPT:])
    generator.shuffle(found)
    return found[:count]


def write(
    loaded: LoadedModel,
    starts: Sequence[Sequence[int]],
    drafts: int,
    seed: int,
    first: int | None = None,
) -> list[list[list[int]]]:
    """[prompts][drafts] the tokens of drafts after each prompt; or only its ``first`` drafts."""
    numbers = np.random.default_rng(seed).random((len(starts), drafts, DRAFT))[:, :first]
    drafts = numbers.shape[1]
    rows = torch.as_tensor([[loaded.bos_id, *start] for start in starts])
    rows = rows.repeat_interleave(drafts, 0)
    drawn = torch.as_tensor(numbers, dtype=torch.float32).flatten(0, 1)
    out: list[list[int]] = []
    for at in range(0, len(rows), 256):
        out += _write(loaded, rows[at : at + 256], drawn[at : at + 256])
    return [out[at : at + drafts] for at in range(0, len(out), drafts)]


@torch.inference_mode()
def _write(loaded: LoadedModel, rows: torch.Tensor, drawn: torch.Tensor) -> list[list[int]]:
    made, past, tokens = [], None, rows
    with loaded.device.autocast():
        for step in range(DRAFT):
            answer = loaded.model(tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
            past, logits = answer.past_key_values, answer.logits[:, -1].float()
            logits[:, loaded.eos_id] = -torch.inf
            best, ids = logits.topk(TOP_K)
            summed = (best / TEMPERATURE).softmax(-1).cumsum(-1)
            place = (summed < drawn[:, step : step + 1]).sum(-1, keepdim=True)
            tokens = ids.gather(1, place.clamp(max=TOP_K - 1))
            made.append(tokens)
    return torch.cat(made, 1).tolist()


@torch.inference_mode()
def losses(loaded: LoadedModel, rows: Sequence[Sequence[int]], skip: int = 1) -> list[float]:
    """The mean negative log-probability per token of each row, in nats.

    Args:
        loaded: The model.
        rows: Tokens, equally many in each row.
        skip: Tokens at the beginning that are only read.
    """
    found: list[float] = []
    for first in range(0, len(rows), 32):
        ids = torch.as_tensor(rows[first : first + 32])
        with loaded.device.autocast():
            logits = loaded.model(ids).logits[:, skip - 1 : -1].float()
        nll = F.cross_entropy(logits.transpose(1, 2), ids[:, skip:], reduction="none")
        found += nll.mean(1).tolist()
    return found


def windows(loaded: LoadedModel, known: Sequence[str], count: int) -> list[list[int]]:
    """Rows of tokens of texts, equally long, spread over all."""
    ids = [token for text in known for token in loaded.tokenizer.encode(text)]
    rows = [ids[at : at + ROW] for at in range(0, len(ids) - ROW + 1, ROW)]
    return rows[:: max(1, len(rows) // count)][:count]
