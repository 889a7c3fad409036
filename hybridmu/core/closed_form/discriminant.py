"""Linear discriminant analysis as a function of integer sums.

Every class k has its own mean m_k, and all share one covariance (Fisher 1936). With n rows of K classes, the scatter
within classes S = Σ (φ − m_y)(φ − m_y)ᵀ and the mean m of all rows, the log-odds of class k are, but for what is the
same for all of them,

    (n − K) / n · w_kᵀ(φ − (m_k + m) / 2) + log n_k,   w_k = n · (S + Λ)⁻¹ (m_k − m).

Means and S have quotients in them, and no integers; but the w_k are a part of the solution of an integer system,

    [ G + Λ   C ] [ W ]   [         0         ]
    [ Cᵀ      N ] [ T ] = [ −n·I + N·(1 … 1) ],

with G = Σ φφᵀ, C the sums of features per class and N the diagonal of the n_k. Eliminating T leaves (G − C N⁻¹ Cᵀ +
Λ)·W = C N⁻¹ · (n·I − N·(1 … 1)), and G − C N⁻¹ Cᵀ is S. Λ penalises as in `ridge`.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from hybridmu.core.closed_form.exact_solver import solve
from hybridmu.core.closed_form.ridge import System, penalties_of
from hybridmu.core.closed_form.sums import Sums


def discriminant_system(sums: Sums, penalty: Fraction) -> System:
    """Return the linear system of a discriminant analysis.

    Args:
        sums: Over at least one row; targets are one-hot classes.
        penalty: As for `ridge_system`.

    Returns:
        A system of d + K columns. A class without rows has no mean, and gets no weights: its N is 1, its right side 0.

    Raises:
        ValueError: There is no row, or no penalty.
    """
    penalties = penalties_of(sums, penalty)
    counts = sums.cross[-1].clamp(min=1)
    features, classes = len(penalties), len(counts)
    device = sums.gram.device
    a = torch.zeros(features + classes, features + classes, dtype=torch.int64, device=device)
    a[:features, :features] = sums.gram[:-1, :-1]
    a[:features, features:] = sums.cross[:-1]
    a[features:, :features] = sums.cross[:-1].T
    a.diagonal()[:features] += torch.tensor(penalties, dtype=torch.int64, device=device)
    a.diagonal()[features:] = counts
    c = torch.zeros(features + classes, classes, dtype=torch.int64, device=device)
    c[features:] = sums.cross[-1][:, None] - torch.diag(torch.full_like(counts, sums.rows))
    c[:, sums.cross[-1] == 0] = 0
    return System(a, c, _least(sums, penalties))


def discriminant_weights(sums: Sums, penalty: Fraction) -> Tensor:
    """Return W, float32 [d, K]: the same bits for the same sums and penalty on any machine."""
    system = discriminant_system(sums, penalty)
    return solve(system.a, system.c, system.least)[: sums.gram.shape[0] - 1]


def log_odds(phi: Tensor, weights: Tensor, means: Tensor, counts: Tensor) -> Tensor:
    """Return the log-odds of classes, but for what is the same for all; −∞ of one without rows.

    Args:
        phi: Features, float64 [n, d].
        weights: From `discriminant_weights`.
        means: m_k, float64 [d, K].
        counts: n_k, int64 [K]; not all 0.

    Returns:
        float64 [n, K].
    """
    rows, classes = int(counts.sum()), int((counts > 0).sum())
    share = counts.double() / rows
    wide = weights.double()
    middle = (means + (means @ share)[:, None]) / 2
    inner = phi @ wide - (middle * wide).sum(dim=0)
    return inner * (max(1, rows - classes) / rows) + share.log()


def _least(sums: Sums, penalties: list[int]) -> Fraction:
    """Return a lower bound of the eigenvalues, as in `ridge`, with a mean per class in the place of one.

    The inverse is [I; −M] (S + Λ)⁻¹ [I, −Mᵀ] + diag(0, N⁻¹), M the means as rows: its norm is at most
    (1 + |M|²) / min Λ + 1 / min n_k, with |M|² the sum of all squares.
    """
    counts = sums.cross[-1].clamp(min=1)
    squares = float((sums.cross[:-1].double() / counts).square().sum())
    size = Fraction(squares) * Fraction(1001, 1000)  # of rounding
    return 1 / ((1 + size) / min(penalties, default=1) + Fraction(1, int(counts.min())))
