"""Other ways to compute a step give other bits, and always the same ones."""

from __future__ import annotations

import pytest
import torch

from hybridmu.core.kernel.training import Recipe
from hybridmu.core.proof.lineage import head
from tests.scenes.shard_in_memory import trained


def forget_and_verify(local_system, make_table, **compute):
    """Train, forget a row of the middle exactly, and compare with a training from scratch in another process."""
    make_table(120)
    with local_system(compute=compute, sisa={"shards": 1, "slices": 2, "epochs": 2}) as system:
        system.train()
        system.forget(ids=[5], strategy="retrain", wait=True)
        return system.verify()


def test_half_width_products_are_repeatable_and_other_bits_than_full_width():
    full, half, again = (trained(precision=name).states[3] for name in ("float32", "bfloat16", "bfloat16"))
    assert all(torch.equal(half[name], again[name]) for name in half)
    assert all(tensor.dtype == torch.float32 for tensor in half.values())
    assert not all(torch.equal(half[name], full[name]) for name in half)
    assert all(torch.allclose(half[name], full[name], atol=0.05) for name in half)


@pytest.mark.slow
def test_exact_forgetting_with_half_width_products_equals_training_from_scratch(local_system, make_table):
    assert forget_and_verify(local_system, make_table, precision="bfloat16")["bitwise_equal"] is True


@pytest.mark.slow
@pytest.mark.timeout(900)  # every process compiles
def test_exact_forgetting_with_a_compiled_step_equals_training_from_scratch(local_system, make_table):
    assert forget_and_verify(local_system, make_table, compile=True)["bitwise_equal"] is True


def test_a_checkpoint_is_found_only_by_the_way_that_made_it():
    recipes = [Recipe((2,), 4, 0, precision=p, compiled=c) for p in ("float32", "bfloat16") for c in (False, True)]
    assert len({head({}, recipe, 0) for recipe in recipes}) == 4
