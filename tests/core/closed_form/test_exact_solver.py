"""Correctly rounded solutions: compared with rational arithmetic, and between processors and numbers of threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.closed_form.exact_solver import IllConditionedError, solve
from tests.reference_sums import nearest, rational


def rounded(a, c) -> list[list[float]]:
    return [[nearest(value) for value in row] for row in rational(a, c)]


def least_of(a) -> Fraction:
    """Return a bound below the smallest eigenvalue: half of what float64 says."""
    return Fraction(float(np.linalg.eigvalsh(np.array(a, dtype=float))[0])) / 2


@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32))
@settings(max_examples=120, deadline=None)
def test_it_is_the_float32_next_to_the_rational_solution(size, columns, rows, bits, seed):
    random = np.random.default_rng(seed)
    x = random.integers(-(2**bits), 2**bits + 1, (rows, size))
    a = (x.T @ x + np.diag(random.integers(1, 50, size))).tolist()
    c = random.integers(-(2**bits), 2**bits + 1, (size, columns)).tolist()
    assert solve(torch.tensor(a), torch.tensor(c), Fraction(1)).tolist() == rounded(a, c)


@pytest.mark.parametrize("size", [3, 5, 7])
def test_a_nearly_singular_system_is_solved_too(size):
    """Hilbert's matrix in whole numbers: its condition grows to 10^10."""
    common = np.lcm.reduce(np.arange(1, 2 * size))
    a = [[int(common // (i + j + 1)) for j in range(size)] for i in range(size)]
    c = [[1 + i % 3, 0] for i in range(size)]
    assert solve(torch.tensor(a), torch.tensor(c), least_of(a)).tolist() == rounded(a, c)


@pytest.mark.parametrize("copies", [2, 4])
def test_columns_that_are_equal_but_for_a_penalty_of_one(copies):
    column = 30_000 * np.ones((1000, 1), dtype=np.int64) + np.arange(1000)[:, None] % 7
    x = np.repeat(column, copies, axis=1)
    a = (x.T @ x + np.eye(copies, dtype=np.int64)).tolist()
    c = (x.T @ (np.arange(1000) % 2)[:, None]).tolist()
    assert solve(torch.tensor(a), torch.tensor(c), Fraction(1)).tolist() == rounded(a, c)


@pytest.mark.parametrize(
    "exact",
    [
        Fraction(2**24 + 1, 2**24),  # between 1 and the next float32: to the even one, 1
        Fraction(2**24 + 3, 2**24),  # between the next two: to the second
        Fraction(-(2**24) - 1, 2**25),
        Fraction(2**25 - 1, 2**25),  # between the last float32 below 1 and 1
        Fraction(1),
        Fraction(0),
        Fraction(1, 2**59),
        Fraction(1, 2**61),  # below TINY
        Fraction(3, 2**61),
    ],
)
def test_ties_go_to_the_even_neighbour(exact):
    a, c = [[exact.denominator, 0], [0, 3]], [[exact.numerator], [1]]
    found = solve(torch.tensor(a), torch.tensor(c), Fraction(1))
    assert found.tolist() == [[nearest(exact)], [nearest(Fraction(1, 3))]]


@pytest.mark.parametrize("off", [-1, 1])
def test_what_is_next_to_a_tie_goes_to_its_own_side(off):
    numerator = (2**24 + 1) * 2**36 + off
    found = solve(torch.tensor([[2**60]]), torch.tensor([[numerator]]), Fraction(1))
    assert found.item() == nearest(Fraction(numerator, 2**60)) == (1.0 if off < 0 else 1 + 2.0**-23)


def test_a_weight_that_no_table_gives_is_refused():
    assert solve(torch.tensor([[1]]), torch.tensor([[2**62]]), Fraction(1)).item() == 2.0**62
    n = 2**26  # the smaller eigenvalue is about 2^-25, which float64 can't see beside 2^27
    a, c = torch.tensor([[n + 1, n], [n, n - 1]]), torch.tensor([[2**62], [-(2**62)]])
    with pytest.raises((OverflowError, IllConditionedError)):
        solve(a, c, Fraction(1, 2**30))


def test_an_indefinite_system_is_refused():
    with pytest.raises(IllConditionedError):
        solve(torch.tensor([[1, 5], [5, 1]]), torch.tensor([[1], [2]]), Fraction(1, 100))


def test_nothing_to_solve():
    assert solve(torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64), Fraction(1)).shape == (
        0,
        2,
    )


PROGRAM = """
import hashlib, sys, torch
from fractions import Fraction
from hybridmu.core.closed_form.ridge import ridge_weights
from hybridmu.core.closed_form.sums import sums_of
torch.set_num_threads(int(sys.argv[1]))
draw = torch.Generator().manual_seed(7)
x = torch.randint(-127, 128, (3000, 300), generator=draw, dtype=torch.int16)
x[:, 100:] = (x[:, 100:] + 3 * x[:, :200]) // 4  # correlated, as features are
y = torch.nn.functional.one_hot((x[:, :10].float() @ torch.randn(10, 7, generator=draw)).argmax(1), 7)
order = torch.randperm(3000, generator=torch.Generator().manual_seed(int(sys.argv[2])))
sums = sums_of(x[order[:1000]], y[order[:1000]], 127) + sums_of(x[order[1000:]], y[order[1000:]], 127)
digest = hashlib.sha256()
for tensor in (sums.gram, sums.cross, ridge_weights(sums, Fraction(1, 1000)).view(torch.int32)):
    digest.update(tensor.numpy().tobytes())
print(torch.backends.cpu.get_cpu_capability(), digest.hexdigest())
"""


@pytest.mark.sampled
def test_threads_orders_and_processors_give_the_same_bits():
    """Instruction sets are limited by what torch and its library of matrix products read at their start."""
    found = []
    for number, (threads, limit) in enumerate([
        (1, {}),
        (2, {}),
        (8, {}),
        (1, {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
    ]):
        command = [sys.executable, "-c", PROGRAM, str(threads), str(number)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **limit})
        found.append(done.stdout.split())
    assert found[3][0] in {"DEFAULT", "NO"}
    assert len({digest for _, digest in found}) == 1
    assert len(found[0][1]) == len(hashlib.sha256().hexdigest())
