"""Every setting of a fine-tuning run, once.

The sentence beside a field is its help on the command line, in the recipes and in the README. The
defaults are those of the original project, so that its commands give what they gave; what suits a
particular model or machine stands in ``recipes/``.
"""

from __future__ import annotations

import dataclasses
import math
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import InputError
from .fields import check, convert, field_types, from_mapping, setting

SOURCES = ("writingprompts", "rocstories", "wikitext", "openwebtext")

_MODEL = "the model"
_DATA = "the data"
_ADAPTER = "the adapter"
_TRAINING = "the training"
_PLACES = "places and machine"


@dataclasses.dataclass
class Config:
    """The settings of one run."""

    model_name: str = setting(
        "gpt2",
        "Base model: `starter` (embedded, needs no hub), a hub id or a folder.",
        group=_MODEL,
        metavar="NAME",
    )
    starter_file: str | None = setting(
        None,
        "The starter's wheel or GGUF file, where it is already on disk.",
        group=_MODEL,
        metavar="FILE",
    )
    init_adapter: str | None = setting(
        None, "Go on from this adapter folder instead of a fresh adapter.", group=_MODEL,
        metavar="FOLDER",
    )  # fmt: skip
    method: str = setting(
        "lora",
        "Train a LoRA adapter, or all weights of the model.",
        choices=("lora", "full"),
        group=_MODEL,
    )

    sources: list[str] = setting(
        list(SOURCES), "Named sources to train on when no FILE is given.", group=_DATA,
        metavar="NAME,…",
    )  # fmt: skip
    mix: dict[str, float] | None = setting(
        None,
        "Share of each source in the training tokens, as name=weight; without it, what there is.",
        group=_DATA,
        metavar="NAME=W,…",
    )
    train_size: int = setting(
        20000, "Documents to train on, over all sources.", low=1, group=_DATA, metavar="N"
    )
    val_size: int = setting(
        2000,
        "Documents to validate on, at most; never more than a tenth of what there is.",
        low=1,
        group=_DATA,
        metavar="N",
    )
    val_tokens: int | None = setting(
        200_000,
        "Held-out tokens that a validation during training scores, at most; the same each time.",
        low=1,
        group=_DATA,
        metavar="N",
    )
    max_documents: int | None = setting(
        None, "Read at most so many documents of each file or source.", low=1, group=_DATA,
        metavar="N",
    )  # fmt: skip
    streaming: bool = setting(
        False,
        "Read, clean and tokenize while training, for corpora larger than memory or disk; needs "
        "max_steps.",
        group=_DATA,
    )
    max_length: int = setting(
        512, "Tokens in a row; longer documents go on in the next row.", low=8, high=131072,
        group=_DATA, metavar="N",
    )  # fmt: skip
    mask_prompt: bool = setting(
        False, "Train on the text only, with the prompt as context.", group=_DATA
    )
    prompt_column: str | None = setting(
        None, "Column that holds the prompt, where it can't be told by its name.", group=_DATA,
        metavar="NAME",
    )  # fmt: skip
    text_column: str | None = setting(
        None, "Column that holds the text, where it can't be told by its name.", group=_DATA,
        metavar="NAME",
    )  # fmt: skip
    skip_missing: bool = setting(
        False, "Go on without a source that can't be read, and record which.", group=_DATA
    )
    skip_bad_rows: bool = setting(
        False, "Leave out rows that can't be read, and count them.", group=_DATA
    )

    lora_r: int = setting(8, "Rank of the adapter's matrices.", low=1, group=_ADAPTER, metavar="N")
    lora_alpha: float = setting(
        16, "Scale of the adapter: its output counts alpha / r.", above=0, group=_ADAPTER,
        metavar="X",
    )  # fmt: skip
    lora_dropout: float = setting(
        0.1, "Dropout before the adapter's first matrix.", low=0, high=0.9, group=_ADAPTER,
        metavar="X",
    )  # fmt: skip
    target_modules: list[str] | None = setting(
        None,
        "Projections that get an adapter: names, or `all-linear`; without it, the attention's.",
        group=_ADAPTER,
        metavar="NAME,…",
    )
    use_rslora: bool = setting(
        False, "Scale by alpha / √r instead of alpha / r, for high ranks (rsLoRA).", group=_ADAPTER
    )
    use_dora: bool = setting(
        False,
        "Train the length of each projection's rows apart from their direction (DoRA); slower.",
        group=_ADAPTER,
    )

    batch_size: int = setting(
        8, "Rows in a micro-step at most; fewer go where memory is short or that is faster.",
        low=1, group=_TRAINING, metavar="N",
    )  # fmt: skip
    gradient_accumulation_steps: int = setting(
        1, "Micro-steps in an optimizer step.", low=1, group=_TRAINING, metavar="N"
    )
    num_epochs: int = setting(5, "Passes over the data.", low=1, group=_TRAINING, metavar="N")
    max_steps: int | None = setting(
        None, "Stop after so many optimizer steps, whatever the epochs.", low=1, group=_TRAINING,
        metavar="N",
    )  # fmt: skip
    learning_rate: float = setting(
        5e-4, "Highest learning rate.", above=0, high=1, group=_TRAINING, metavar="X"
    )
    schedule: str = setting(
        "linear",
        "How the learning rate falls after the warm-up.",
        choices=("linear", "cosine", "constant"),
        group=_TRAINING,
    )
    warmup_steps: int | None = setting(
        None,
        "Optimizer steps in which the learning rate rises; without it 10 % of all, at most 500.",
        low=0,
        group=_TRAINING,
        metavar="N",
    )
    weight_decay: float = setting(
        0.01, "AdamW's weight decay.", low=0, high=1, group=_TRAINING, metavar="X"
    )
    max_grad_norm: float = setting(
        1.0, "Longer gradients are cut to this norm.", above=0, group=_TRAINING, metavar="X"
    )
    eval_steps: int | None = setting(
        None,
        "Validate every so many optimizer steps; without it once an epoch, at least 5 times a run.",
        low=1,
        group=_TRAINING,
        metavar="N",
    )
    save_steps: int | None = setting(
        None, "Save a checkpoint every so many optimizer steps; without it with each validation.",
        low=1, group=_TRAINING, metavar="N",
    )  # fmt: skip
    save_total_limit: int = setting(
        2, "Checkpoints kept; should the newest be damaged, the one before it is used.", low=1,
        group=_TRAINING, metavar="N",
    )  # fmt: skip
    patience: int = setting(
        2,
        "Stop after so many validations without an improvement; 0 never stops early.",
        low=0,
        group=_TRAINING,
        metavar="N",
    )
    min_delta: float = setting(
        0.01, "A validation loss lower by this many nats is an improvement.", low=0,
        group=_TRAINING, metavar="X",
    )  # fmt: skip
    seed: int = setting(
        42, "Seed of the split, the order, the adapter and its dropout.", low=0, high=2**31 - 1,
        group=_TRAINING, metavar="N",
    )  # fmt: skip

    samples: int = setting(
        2,
        "Prompts that the model continues at each validation, for the record; 0 for none.",
        low=0,
        group=_TRAINING,
        metavar="N",
    )
    sample_prompts: str | None = setting(
        None, "File with these prompts, one a line; without it two fixed ones.", group=_TRAINING,
        metavar="FILE",
    )  # fmt: skip

    output_dir: str = setting(
        "outputs", "Where the run's models and records go.", group=_PLACES, metavar="FOLDER"
    )
    results_dir: str = setting("results", "Where explanations go.", group=_PLACES, metavar="FOLDER")
    cache_dir: str | None = setting(
        None, "Where the starter and token caches are kept.", group=_PLACES, metavar="FOLDER"
    )
    device: str | None = setting(
        None, "cpu, cuda, cuda:N or mps; without it the best there is.", group=_PLACES,
        metavar="NAME",
    )  # fmt: skip
    precision: str = setting(
        "auto",
        "Number format of the heavy products; auto takes bf16 where it is faster here, int8 "
        "(training of adapters on a CPU) rounds more and is the fastest on many.",
        choices=("auto", "fp32", "bf16", "int8"),
        group=_PLACES,
    )
    track: list[str] | None = setting(
        None, "Report numbers to trackers too: tensorboard, wandb, mlflow and others.",
        group=_PLACES, metavar="NAME,…",
    )  # fmt: skip
    num_workers: int | None = setting(
        None, "Processor threads, and processes that prepare data; without it one per core.",
        low=1, group=_PLACES, metavar="N",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, kind in field_types(Config).items():
            setattr(self, name, convert(name, getattr(self, name), kind))
        check(self)
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
