"""A model that always writes the same words, so that a test knows what a session will show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def parrot(tokenizer: Any, text: str, window: int = 256) -> Any:
    """A GPT-2 that writes ``text`` over and over; each of its tokens may occur once in it.

    The layers add nothing, so that the next token is a function of the last one only.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(set(ids)) == len(ids), "a token occurs twice"
    size = len(tokenizer)
    config = GPT2Config(
        vocab_size=size, n_layer=1, n_embd=size, n_head=4, n_positions=window,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1 if "ln" in name and name.endswith("weight") else 0)
        model.transformer.wte.weight.copy_(torch.eye(size))
        # Whatever was last that is not part of the text leads to its start.
        after = torch.full((size,), ids[0])
        after[torch.tensor(ids)] = torch.tensor(ids[1:] + ids[:1])
        # The norm spreads a little over all other entries, and that row has many of them.
        model.lm_head.weight[after, torch.arange(size)] = 5.0
        model.lm_head.weight[ids[0]] *= 10
    return model.eval()


def save_parrot(folder: Path, tokenizer: Any, text: str, window: int = 256) -> Path:
    """A folder with such a model, for the real command."""
    parrot(tokenizer, text, window).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
