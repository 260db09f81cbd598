"""Settings of a fine-tuning run: ``Config``, recipes and their loading.

A field's sentence is its help on the command line, in the recipes and in the documentation. The
defaults are those of the original project; ``recipes/`` has settings for particular models.
"""

from __future__ import annotations

import dataclasses
import math
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import InputError
from .fields import from_mapping, setting
from .machine import PLACES, MachineSettings

SOURCES = ("writingprompts", "rocstories", "wikitext", "openwebtext")

_MODEL = "the model"
_DATA = "the data"
_ADAPTER = "the adapter"
_TRAINING = "the training"


@dataclasses.dataclass
class Config(MachineSettings):
    """The settings of one run."""

    model_name: str = setting(
        "gpt2",
        "Base model: `starter` (embedded, needs no hub), a hub id or a folder.",
        group=_MODEL,
        metavar="NAME",
    )
    init_adapter: str | None = setting(
        None, "Adapter folder to continue training instead of a new adapter.", group=_MODEL,
        metavar="FOLDER",
    )  # fmt: skip
    method: str = setting(
        "lora",
        "Train a LoRA adapter (`lora`) or all weights (`full`).",
        choices=("lora", "full"),
        group=_MODEL,
    )

    sources: list[str] = setting(
        list(SOURCES), "Named sources to train on when no FILE is given.", group=_DATA,
        metavar="NAME,…",
    )  # fmt: skip
    mix: dict[str, float] | None = setting(
        None,
        "Weight of each source in the training tokens (name=weight); default: by its size.",
        group=_DATA,
        metavar="NAME=W,…",
    )
    train_size: int = setting(
        20000,
        "Maximum number of training documents over all sources.",
        low=1,
        group=_DATA,
        metavar="N",
    )
    val_size: int = setting(
        2000,
        "Maximum number of validation documents; never more than 10 % of all documents.",
        low=1,
        group=_DATA,
        metavar="N",
    )
    val_tokens: int | None = setting(
        200_000,
        "Maximum validation tokens scored per evaluation during training; always the same ones.",
        low=1,
        group=_DATA,
        metavar="N",
    )
    max_documents: int | None = setting(
        None, "Maximum number of documents read per file or source.", low=1, group=_DATA,
        metavar="N",
    )  # fmt: skip
    streaming: bool = setting(
        False,
        "Read, clean and tokenize during training, for corpora larger than memory or disk; "
        "requires max_steps.",
        group=_DATA,
    )
    max_length: int = setting(
        512, "Tokens per row; longer documents continue in the next row.", low=8, high=131072,
        group=_DATA, metavar="N",
    )  # fmt: skip
    mask_prompt: bool = setting(
        False, "Compute the loss on the text only; prompts are context.", group=_DATA
    )
    prompt_column: str | None = setting(
        None, "Column with the prompt, if its name is not recognised.", group=_DATA,
        metavar="NAME",
    )  # fmt: skip
    text_column: str | None = setting(
        None, "Column with the text, if its name is not recognised.", group=_DATA,
        metavar="NAME",
    )  # fmt: skip
    skip_missing: bool = setting(
        False, "Continue without sources that can't be read; they are recorded.", group=_DATA
    )
    skip_bad_rows: bool = setting(
        False, "Skip rows that can't be read; they are counted.", group=_DATA
    )

    lora_r: int = setting(8, "LoRA rank.", low=1, group=_ADAPTER, metavar="N")
    lora_alpha: float = setting(
        16, "LoRA alpha; the adapter's output is scaled by alpha / r.", above=0, group=_ADAPTER,
        metavar="X",
    )  # fmt: skip
    lora_dropout: float = setting(
        0.1, "Dropout probability on the adapter's input.", low=0, high=0.9, group=_ADAPTER,
        metavar="X",
    )  # fmt: skip
    target_modules: list[str] | None = setting(
        None,
        "Modules to adapt: names or `all-linear`; default: the attention projections.",
        group=_ADAPTER,
        metavar="NAME,…",
    )
    use_rslora: bool = setting(
        False, "Scale by alpha / √r instead of alpha / r, for high ranks (rsLoRA).", group=_ADAPTER
    )
    use_dora: bool = setting(
        False,
        "Train magnitude and direction of each weight separately (DoRA); slower.",
        group=_ADAPTER,
    )

    batch_size: int = setting(
        8, "Maximum rows per micro-batch; lowered when memory is short.",
        low=1, group=_TRAINING, metavar="N",
    )  # fmt: skip
    gradient_accumulation_steps: int = setting(
        1, "Micro-batches per optimizer step.", low=1, group=_TRAINING, metavar="N"
    )
    num_epochs: int = setting(5, "Number of epochs.", low=1, group=_TRAINING, metavar="N")
    max_steps: int | None = setting(
        None, "Number of optimizer steps; overrides num_epochs.", low=1, group=_TRAINING,
        metavar="N",
    )  # fmt: skip
    learning_rate: float = setting(
        5e-4, "Peak learning rate.", above=0, high=1, group=_TRAINING, metavar="X"
    )
    schedule: str = setting(
        "linear",
        "Learning rate schedule after the warm-up.",
        choices=("linear", "cosine", "constant"),
        group=_TRAINING,
    )
    warmup_steps: int | None = setting(
        None,
        "Warm-up steps; default: 10 % of all steps, at most 500.",
        low=0,
        group=_TRAINING,
        metavar="N",
    )
    weight_decay: float = setting(
        0.01, "AdamW weight decay.", low=0, high=1, group=_TRAINING, metavar="X"
    )
    max_grad_norm: float = setting(
        1.0, "Maximum gradient norm (clipping).", above=0, group=_TRAINING, metavar="X"
    )
    eval_steps: int | None = setting(
        None,
        "Optimizer steps between evaluations; default: once per epoch, at least 5 per run.",
        low=1,
        group=_TRAINING,
        metavar="N",
    )
    save_steps: int | None = setting(
        None, "Optimizer steps between checkpoints; default: eval_steps.",
        low=1, group=_TRAINING, metavar="N",
    )  # fmt: skip
    save_total_limit: int = setting(
        2, "Checkpoints to keep; if the newest is damaged, the previous one is used.", low=1,
        group=_TRAINING, metavar="N",
    )  # fmt: skip
    patience: int = setting(
        2,
        "Evaluations without improvement before early stopping; 0 disables it.",
        low=0,
        group=_TRAINING,
        metavar="N",
    )
    min_delta: float = setting(
        0.01, "Decrease of the validation loss (nats) that counts as improvement.", low=0,
        group=_TRAINING, metavar="X",
    )  # fmt: skip
    seed: int = setting(
        42, "Random seed of split, data order, adapter and dropout.", low=0, high=2**31 - 1,
        group=_TRAINING, metavar="N",
    )  # fmt: skip

    samples: int = setting(
        2,
        "Number of prompts continued at each evaluation, as samples; 0 for none.",
        low=0,
        group=_TRAINING,
        metavar="N",
    )
    sample_prompts: str | None = setting(
        None, "File with sample prompts, one per line; default: two fixed ones.", group=_TRAINING,
        metavar="FILE",
    )  # fmt: skip

    output_dir: str = setting(
        "outputs", "Folder for models and records of the run.", group=PLACES, metavar="FOLDER"
    )
    results_dir: str = setting(
        "results", "Folder for explanations.", group=PLACES, metavar="FOLDER"
    )
    precision: str = setting(
        "auto",
        "Number format of matrix products; auto: bf16 where measured faster; int8: only for "
        "training LoRA adapters on a CPU.",
        choices=("auto", "fp32", "bf16", "int8"),
        group=PLACES,
    )
    track: list[str] | None = setting(
        None, "Experiment trackers to log to: tensorboard, wandb, mlflow, …",
        group=PLACES, metavar="NAME,…",
    )  # fmt: skip

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
    """The recipes that come with the package."""
    folder = resources.files("creativewritinggpt") / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """The YAML of a recipe, or of the file at that path.

    Raises:
        InputError: There is neither.
    """
    if name in recipe_names():
        return (resources.files("creativewritinggpt") / "recipes" / f"{name}.yaml").read_text(
            "utf-8"
        )
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
    import yaml

    overrides = overrides or {}
    if recipe is None and overrides.get("model_name") == "starter":
        recipe = "starter"
    values: dict[str, Any] = {}
    where = "settings"
    if recipe is not None:
        where = recipe
        try:
            read = yaml.safe_load(recipe_text(recipe))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f" (line {mark.line + 1})" if mark else ""
            raise InputError(f"{recipe} is not valid YAML{line}") from error
        if read is not None and not isinstance(read, dict):
            raise InputError(f"{recipe} must hold settings as `name: value` lines")
        values = read or {}
    base = from_mapping(Config, values, where)
    if not overrides:
        return base
    given = from_mapping(Config, {**base.to_dict(), **overrides}, "settings")
    return given
