"""Random features in whole numbers: exact, within their levels, and a function of declared numbers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybridmu.core.closed_form.projection import Projection


def by_hand(projection: Projection, q: torch.Tensor, levels: int) -> list[list[int]]:
    matrix, bias = (np.array(each.long().tolist(), dtype=object) for each in (projection.matrix, projection.bias))
    products = np.array(q.tolist(), dtype=object) @ matrix + bias
    return [[min(levels, max(0, int(value)) >> projection.shift) for value in row] for row in products]


@pytest.mark.parametrize(("features", "levels"), [(3, 255), (784, 255), (3072, 255), (50, 32_767), (2000, 32_767)])
def test_features_are_those_of_whole_numbers(features, levels):
    """The two last ones leave 24 bits, where float32 would round."""
    projection = Projection(features, levels, 16, 5, 127)
    random = np.random.default_rng(0)
    q = torch.from_numpy(random.integers(-levels, levels + 1, (20, features)).astype(np.int16))
    q[0], q[1] = levels, -levels
    found = projection(q)
    assert found.dtype == torch.int16
    assert found.tolist() == by_hand(projection, q, 127)


def test_most_levels_are_used_by_pictures():
    projection = Projection(784, 255, 512, 0, 127)
    random = np.random.default_rng(0)
    strokes = np.clip(random.normal(-100, 150, (200, 784)), 0, 255)
    found = projection(torch.from_numpy(strokes.astype(np.int16)))
    assert 0.3 < float((found == 0).float().mean()) < 0.7
    assert float((found == 127).float().mean()) < 0.05
    assert int(found.max()) > 60


def test_entries_are_nearly_gaussian_and_of_the_seed_alone():
    one, same, other = (Projection(100, 255, 200, seed, 127) for seed in (1, 1, 2))
    assert torch.equal(one.matrix, same.matrix)
    assert torch.equal(one.bias, same.bias)
    assert not torch.equal(one.matrix, other.matrix)
    entries = one.matrix.double().flatten()
    assert abs(float(entries.mean())) < 0.1
    assert float(entries.std()) == pytest.approx(4, abs=0.1)
    assert float(((entries / 4) ** 4).mean()) == pytest.approx(3, abs=0.3)
    assert torch.equal(entries, entries.round())


def test_a_torch_that_may_shorten_float32_products_is_not_believed():
    projection = Projection(50, 255, 16, 5, 127)
    q = torch.full((4, 50), 255, dtype=torch.int16)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert projection(q).tolist() == by_hand(projection, q, 127)
    finally:
        torch.set_float32_matmul_precision(before)
