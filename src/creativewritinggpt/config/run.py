"""Settings of a fine-tuning run: ``Config``, recipes and their loading.

A field's sentence is its help on the command line, in the recipes and in the documentation. The
defaults are those of the original project; ``recipes/`` has settings for particular models.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import parse_yaml
from .fields import PLACES, MachineSettings, from_mapping, setting

_RECIPES = resources.files("creativewritinggpt") / "recipes"
DEFAULT_SOURCES = ("writingprompts", "rocstories", "wikitext", "openwebtext")

CHOICES_RECIPE = "choices"
"""The recipe of training on the writer's choices, which is not for texts."""

_model = functools.partial(setting, group="the model")
_data = functools.partial(setting, group="the data")
_adapter = functools.partial(setting, group="the adapter")
_training = functools.partial(setting, group="the training")
_place = functools.partial(setting, group=PLACES)


@dataclasses.dataclass
class Config(MachineSettings):
    """The settings of one run."""

    model_name: str = _model(
        "gpt2", "Base model: `starter` (embedded, needs no hub), a hub id or a folder.",
        metavar="NAME",
    )  # fmt: skip
    init_adapter: str | None = _model(
        None, "Adapter folder to continue training instead of a new adapter.", metavar="FOLDER"
    )
    method: str = _model(
        "lora", "Train a LoRA adapter (`lora`) or all weights (`full`).", choices=("lora", "full")
    )

    sources: list[str] = _data(
        list(DEFAULT_SOURCES), "Named sources to train on when no FILE is given.", metavar="NAME,…"
    )
    mix: dict[str, float] | None = _data(
        None, "Weight of each source in the training tokens (name=weight); default: by its size.",
        metavar="NAME=W,…",
    )  # fmt: skip
    train_size: int = _data(20000, "Maximum number of training documents over all sources.", low=1)
    val_size: int = _data(
        2000, "Maximum number of validation documents; never more than 10 % of all documents.",
        low=1,
    )  # fmt: skip
    val_tokens: int | None = _data(
        200_000,
        "Maximum validation tokens scored per evaluation during training; always the same ones.",
        low=1,
    )  # fmt: skip
    max_documents: int | None = _data(
        None, "Maximum number of documents read per file or source.", low=1
    )
    streaming: bool = _data(
        False,
        "Read, clean and tokenize during training, for corpora larger than memory or disk; "
        "requires max_steps.",
    )  # fmt: skip
    max_length: int = _data(
        512, "Tokens per row; longer documents continue in the next row.", low=8, high=131072
    )
    mask_prompt: bool = _data(False, "Compute the loss on the text only; prompts are context.")
    prompt_column: str | None = _data(
        None, "Column with the prompt, if its name is not recognised.", metavar="NAME"
    )
    text_column: str | None = _data(
        None, "Column with the text, if its name is not recognised.", metavar="NAME"
    )
    skip_missing: bool = _data(
        False, "Continue without sources that can't be read; they are recorded."
    )
    skip_bad_rows: bool = _data(False, "Skip rows that can't be read; they are counted.")

    lora_r: int = _adapter(8, "LoRA rank.", low=1)
    lora_alpha: float = _adapter(
        16, "LoRA alpha; the adapter's output is scaled by alpha / r.", above=0
    )
    lora_dropout: float = _adapter(
        0.1, "Dropout probability on the adapter's input.", low=0, high=0.9
    )
    target_modules: list[str] | None = _adapter(
        None, "Modules to adapt: names or `all-linear`; default: the attention projections.",
        metavar="NAME,…",
    )  # fmt: skip
    use_rslora: bool = _adapter(
        False, "Scale by alpha / √r instead of alpha / r, for high ranks (rsLoRA)."
    )
    use_dora: bool = _adapter(
        False, "Train magnitude and direction of each weight separately (DoRA); slower."
    )

    batch_size: int = _training(
        8, "Maximum rows per micro-batch; lowered when memory is short.", low=1
    )
    gradient_accumulation_steps: int = _training(1, "Micro-batches per optimizer step.", low=1)
    num_epochs: int = _training(5, "Number of epochs.", low=1)
    max_steps: int | None = _training(
        None, "Number of optimizer steps; overrides num_epochs.", low=1
    )
    learning_rate: float = _training(5e-4, "Peak learning rate.", above=0, high=1)
    schedule: str = _training(
        "linear", "Learning rate schedule after the warm-up.",
        choices=("linear", "cosine", "constant"),
    )  # fmt: skip
    warmup_steps: int | None = _training(
        None, "Warm-up steps; default: 10 % of all steps, at most 500.", low=0
    )
    weight_decay: float = _training(0.01, "AdamW weight decay.", low=0, high=1)
    max_grad_norm: float = _training(1.0, "Maximum gradient norm (clipping).", above=0)
    eval_steps: int | None = _training(
        None, "Optimizer steps between evaluations; default: once per epoch, at least 5 per run.",
        low=1,
    )  # fmt: skip
    save_steps: int | None = _training(
        None, "Optimizer steps between checkpoints; default: eval_steps.", low=1
    )
    save_total_limit: int = _training(
        2, "Checkpoints to keep; if the newest is damaged, the previous one is used.", low=1
    )
    patience: int = _training(
        2, "Evaluations without improvement before early stopping; 0 disables it.", low=0
    )
    min_delta: float = _training(
        0.01, "Decrease of the validation loss (nats) that counts as improvement.", low=0
    )
    seed: int = _training(
        42, "Random seed of split, data order, adapter and dropout.", low=0, high=2**31 - 1
    )
    samples: int = _training(
        2, "Number of prompts continued at each evaluation, as samples; 0 for none.", low=0
    )
    sample_prompts: str | None = _training(
        None, "File with sample prompts, one per line; default: two fixed ones.", metavar="FILE"
    )

    output_dir: str = _place(
        "outputs", "Folder for models and records of the run.", metavar="FOLDER"
    )
    results_dir: str = _place("results", "Folder for explanations.", metavar="FOLDER")
    compile: bool = _place(
        False,
        "Compile what runs between matrix products (LoRA on a CPU); for long runs.",
    )
    precision: str = _place(
        "auto",
        "Number format of matrix products; auto: bf16 where measured faster; int8: only for "
        "training LoRA adapters on a CPU.",
        choices=("auto", "fp32", "bf16", "int8"),
        kw_only=True,  # as in MachineSettings, or it would come before the model's name
    )  # fmt: skip
    track: list[str] | None = _place(
        None,
        "Experiment trackers to log to: tensorboard, wandb, mlflow and others.",
        metavar="NAME,…",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mix is not None and (
            not self.mix
            or not all(math.isfinite(weight) and weight >= 0 for weight in self.mix.values())
            or sum(self.mix.values()) <= 0
        ):
            raise InputError(
                f"mix is {self.mix}", "give each source a weight of 0 or more, one above 0"
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in _RECIPES.iterdir()
        if entry.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """The YAML of a recipe, or of the file at that path.

    Raises:
        InputError: There is neither.
    """
    if name in recipe_names():
        return (_RECIPES / f"{name}.yaml").read_text("utf-8")
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"no recipe or file '{name}'", f"recipes: {', '.join(recipe_names())}; or give a path"
        )
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not a YAML file in UTF-8") from error


def load_config(recipe: str | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Settings from defaults, a recipe and overrides, the later ones winning.

    Args:
        recipe: Name of a recipe or path of a YAML file. Without it the recipe ``starter`` is taken
            when ``overrides`` name the starter as model.
        overrides: Field names to values.

    Raises:
        InputError: An unknown key or a value that does not fit.
    """
    overrides = overrides or {}
    if recipe is None and overrides.get("model_name") == "starter":
        recipe = "starter"
    values: dict[str, Any] = {}
    if recipe is not None:
        read = parse_yaml(recipe_text(recipe), recipe)
        if read is not None and not isinstance(read, dict):
            raise InputError(f"{recipe} must hold settings as `name: value` lines")
        values = read or {}
    base = from_mapping(Config, values, recipe or "settings")
    return from_mapping(Config, {**base.to_dict(), **overrides}, "settings")
