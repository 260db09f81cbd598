"""The loss and the gradient of pairs against TRL's own DPOTrainer, where TRL is installed."""

import dataclasses

import numpy as np
import pytest
import torch
from choosing import decisions, tuned

from creativewritinggpt.taste.comparisons import compare
from creativewritinggpt.taste.objective import Objective
from creativewritinggpt.taste.settings import ChoiceSettings

trl = pytest.importorskip("trl", reason="TRL is not among the project's libraries")

PAIRS = [{"prompt": "A lamp.", "chosen": " It burns.", "rejected": " It went out."}] * 2


def _trainer(writer, tokenizer, folder, **settings):
    from datasets import Dataset

    arguments = trl.DPOConfig(
        output_dir=str(folder), beta=0.1, bf16=False, gradient_checkpointing=False,
        max_length=None, per_device_train_batch_size=4, use_cpu=True, report_to="none",
        disable_dropout=True, **settings,
    )  # fmt: skip
    return trl.DPOTrainer(
        writer.model, args=arguments, processing_class=tokenizer,
        train_dataset=Dataset.from_list(PAIRS),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"accepted_weight": 0.0}, {"loss_type": ["sigmoid"]}),
        (
            {"accepted_weight": 0.7},
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]},
        ),
        ({"accepted_weight": 0.0, "tail_weight": 0.3}, {"ld_alpha": 0.3}),
    ],
)
def test_two_texts_are_trls_dpo(ours, theirs, tiny_model, tiny_tokenizer, tmp_path):
    writer = tuned(tiny_model("llama"), tiny_tokenizer)
    settings = ChoiceSettings(label_smoothing=0.0, context_tokens=32, draft_prompts=0, **ours)
    made = decisions(4, shown=2, seed=4)
    # Of unequal length, for the tails.

    made = [
        dataclasses.replace(one, chosen=(one.chosen or "") + " It rained." * number)
        for number, one in enumerate(made)
    ]
    comparisons, _ = compare(writer, made, 32)
    objective = Objective(writer, comparisons, "preference", settings, seed=0, rows_at_once=8)
    trainer = _trainer(writer, tiny_tokenizer, tmp_path, **theirs)  # copies the reference
    parameters = {name: p for name, p in writer.model.named_parameters() if p.requires_grad}
    assert parameters and not any(".ref." in name for name in parameters)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    loss = objective.gradient([0, 1, 2, 3], 8)
    gradients = {name: p.grad.clone() for name, p in parameters.items()}
    writer.model.zero_grad()
    examples = [
        {"prompt_ids": one.context, "chosen_ids": one.texts[0], "rejected_ids": one.texts[1]}
        for one in comparisons
    ]
    batch = trainer.data_collator(examples)
    expected = trainer.compute_loss(writer.model, batch)
    assert abs(loss - np.log(2)) > 1e-3  # not the loss of the start
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    expected.backward()
    for name, parameter in parameters.items():
        assert torch.allclose(parameter.grad, gradients[name], atol=1e-5), name
