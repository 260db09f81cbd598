"""Trainings in these tests draw no curves, which would take longer than the training."""

import pytest

from creativewritinggpt.training import metrics


@pytest.fixture
def curves():
    """Asks for the real ``training_curves.png``."""


@pytest.fixture(autouse=True)
def _no_curves(request, monkeypatch):
    if "curves" not in request.fixturenames:
        monkeypatch.setattr(metrics, "draw_curves", lambda metrics, path: None)
