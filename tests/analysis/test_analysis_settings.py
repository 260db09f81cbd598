from __future__ import annotations

import pytest

from creativewritinggpt.analysis.registry import METHODS, AnalysisSettings
from creativewritinggpt.errors import InputError


def test_all_methods_are_the_default() -> None:
    assert AnalysisSettings().methods == list(METHODS)


@pytest.mark.parametrize(
    "values",
    [
        {"write": 0},
        {"methods": ["magic"]},
        {"baseline": "pad"},
        {"samples": 1},
        {"steps": 0},
        {"write": 3, "target": "door"},
        {"target": "door", "next_word": "window"},
        {"write": 3, "contrast": "window"},
        {"nothing": 1},
        {"layers": ["x"]},
        {"layers": [1], "methods": ["gradients"]},
        {"heads": [1], "methods": ["gradients"]},
        {"without_sink": True, "methods": ["gradients"]},
        {"methods": []},
        {"layers": []},
        {"heads": []},
        {"methods": ["lens", "faithfulness"]},
        {"methods": ["occlusion", "story"]},
        {"preset": "fantasy"},
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InputError):
        AnalysisSettings.from_mapping(dict(values))
