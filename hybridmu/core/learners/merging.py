"""Sub-models that become one: of integer sums, whose sum is that of all rows at once.

Sharding then costs no accuracy: the merged model is, bit for bit, what one machine would have made of all rows, and a
sub-model that is withheld is left out of the sum.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import reduce

from hybridmu.core.closed_form.closed_form_model import closed_form_of
from hybridmu.core.closed_form.exact_solver import IllConditionedError
from hybridmu.core.kernel.model import SubModel
from hybridmu.errors import StateError

MERGE = "merge"
_ALONE = "mean"  # of one model: its own answers


def combined_by(how: str) -> str:
    """Return how the answers of the models that are asked are combined, by one of the ways of `serving.aggregation`."""
    return _ALONE if how == MERGE else how


def answering(models: Sequence[SubModel], how: str) -> tuple[Sequence[SubModel], str]:
    """Return the models that are asked, and how their answers are combined.

    Args:
        models: Sub-models that vote.
        how: One of the ways of `serving.aggregation`; `merge` asks one model that is made of all.

    Returns:
        The models themselves, unless they are merged.

    Raises:
        StateError: Their sums have no solution.
    """
    if how != MERGE or len(models) < 2:
        return models, combined_by(how)
    made = copy.deepcopy(models[0])
    sums = reduce(lambda one, other: one + other, (closed_form_of(model).held for model in models))
    try:
        closed_form_of(made).hold(sums)
    except (IllConditionedError, OverflowError) as error:
        raise StateError(
            "the shards' sums can't be merged",
            got=str(error),
            remedy="raise task.penalty, or set serving.aggregation: mean",
        ) from None
    return [made], _ALONE
