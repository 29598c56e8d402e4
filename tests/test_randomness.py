"""AugmentParams that depend on what they are for and on nothing else."""

import numpy as np
import pytest

from alexnet.randomness import normals, order, step_seed, uniforms


def test_an_order_visits_each_image_once_and_changes_with_seed_and_epoch() -> None:
    orders = [order(seed, epoch, 1000) for seed in (0, 1) for epoch in (1, 2)]
    for each in orders:
        assert sorted(each) == list(range(1000))
    for i, each in enumerate(orders):
        for other in orders[:i]:
            assert (each != other).mean() > 0.9
    assert (order(0, 1, 1000) == orders[0]).all()


def test_draws_of_an_image_do_not_depend_on_its_batch() -> None:
    together = uniforms(3, 5, np.arange(100), 4)
    alone = uniforms(3, 5, np.array([17]), 4)
    assert (together[17] == alone[0]).all()
    assert (uniforms(3, 5, np.arange(100), 2) == together[:, :2]).all()


def test_draws_are_uniform_and_unrelated() -> None:
    images = np.arange(20_000)
    columns = [uniforms(seed, epoch, images, 2) for seed in (0, 1) for epoch in (1, 2)]
    numbers = np.concatenate(columns, axis=1)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
    expected = numbers.size / 100
    assert ((counts - expected) ** 2 / expected).sum() < 160  # chi-squared, 99 degrees, p < 1e-4
    related = np.corrcoef(numbers.T) - np.eye(numbers.shape[1])
    assert np.abs(related).max() < 0.035
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.035


def test_normals_are_normal() -> None:
    draws = normals(uniforms(0, 1, np.arange(50_000), 4))
    assert draws.shape == (50_000, 2)
    assert draws.mean() == pytest.approx(0, abs=0.02)
    assert draws.std() == pytest.approx(1, abs=0.02)
    assert (np.abs(draws) < 1.959964).mean() == pytest.approx(0.95, abs=0.005)


def test_step_seeds_differ_and_fit_torch() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(500)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_large_seeds_work() -> None:
    assert order(2**63, 1, 5).shape == (5,)
    assert uniforms(2**63, 1, np.arange(3), 1).shape == (3, 1)
