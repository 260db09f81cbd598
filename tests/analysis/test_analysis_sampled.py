"""Means of rough samples, corrected by a few exact ones, are those of the exact values."""

from __future__ import annotations

import numpy as np

from creativewritinggpt.analysis.methods.sampled import Sampled


def simulated(generator: np.random.Generator, bias: float) -> tuple[float, float]:
    exact = generator.exponential(1.0, (1, 48))
    rough = 0.9 * exact + bias + 0.1 * generator.normal(size=exact.shape)
    found = Sampled(rough, exact[:, :8])
    return float(found.mean()[0]), float(found.standard_error()[0])


def test_the_corrected_mean_is_unbiased_and_its_error_is_honest() -> None:
    generator = np.random.default_rng(0)
    found = np.array([simulated(generator, bias=0.7) for _ in range(4000)])
    means, errors = found.T
    assert abs(means.mean() - 1.0) < 4 * means.std() / len(means) ** 0.5
    assert 0.9 < np.sqrt((errors**2).mean()) / means.std() < 1.1
    inside = np.abs(means - 1.0) < 2 * errors
    assert 0.9 < inside.mean() < 0.97  # exponential values, few of them exact
    # Far better than the exact ones alone, and hardly worse than if all had been.
    assert means.std() < 0.55 / 8**0.5
    assert means.std() < 1.25 / 48**0.5


def test_without_exact_values_it_is_the_mean_and_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=(3, 10, 2)).astype(np.float32)
    found = Sampled(values)
    np.testing.assert_allclose(found.mean(), values.mean(1), rtol=1e-6)
    expected = values.astype(float).std(1, ddof=1) / 10**0.5
    np.testing.assert_allclose(found.standard_error(), expected)


def test_all_exact_is_the_same_as_exact() -> None:
    generator = np.random.default_rng(2)
    exact = generator.normal(size=(4, 9, 2))
    found = Sampled(exact + generator.normal(size=exact.shape), exact)
    np.testing.assert_allclose(found.mean(), exact.mean(1))
    np.testing.assert_allclose(found.standard_error(), exact.std(1, ddof=1) / 3)
    summed = found.map(lambda values: values.sum(2))
    np.testing.assert_allclose(summed.mean(), exact.sum(2).mean(1))
