"""Names of the files in the output folder of a run, for those that read a run without PyTorch."""

from __future__ import annotations

from pathlib import Path

BEST, FINAL, CHECKPOINTS = "best_model", "final_model", "checkpoints"
METRICS, CURVES = "metrics.json", "training_curves.png"
METRICS_LOG, TRACKING = "metrics.jsonl", "tracking"
VALIDATION, MANIFEST = "validation.jsonl", "manifest.json"
EVALUATION = (
    "evaluation.json", "evaluation.md", "evaluation.html", "evaluation.jsonl",
    "evaluation_texts.jsonl",
)  # fmt: skip

CHOICES_REPORT = "choices_report.json"

OF_A_RUN = (BEST, FINAL, CHECKPOINTS, METRICS, CURVES, METRICS_LOG, TRACKING, VALIDATION, MANIFEST,
            CHOICES_REPORT, *EVALUATION)  # fmt: skip
"""All that a run writes into its folder."""


def holds_run(folder: Path) -> bool:
    """Whether a run has written into the folder."""
    return any((folder / name).exists() for name in (BEST, FINAL, CHECKPOINTS, METRICS))
