"""Sub-models of closed-form learners: statistics over their rows in whole numbers, and what follows from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, Self, TypeVar

from torch import Tensor, nn


class Statistics(Protocol):
    """Whole numbers that are sums over some rows: of both, after an addition; of the others, after a subtraction."""

    @property
    def rows(self) -> int:
        """Return how many rows they are over."""
        ...

    def __add__(self, other: Self, /) -> Self:
        """Return the statistics of the rows of both."""
        ...

    def __sub__(self, other: Self, /) -> Self:
        """Return the statistics of the rows that are not in the other's, which are all in these."""
        ...


S = TypeVar("S", bound=Statistics)


class ClosedForm(nn.Module, ABC, Generic[S]):
    """A model that is a function of statistics over rows, and of nothing else: the same bits on any machine."""

    @abstractmethod
    def sums(self, x: Tensor, outcomes: Tensor) -> S:
        """Return the statistics of rows.

        Args:
            x: float32 [n, features].
            outcomes: Class numbers, int64 [n], or targets, float32 [n].

        Raises:
            OverflowError: The sums over so many rows may leave 62 bits.
            ValueError: A feature is not finite.
        """

    @property
    @abstractmethod
    def held(self) -> S:
        """Return the statistics that the model is of."""

    @abstractmethod
    def hold(self, sums: S) -> None:
        """Become the model of some statistics.

        Raises:
            IllConditionedError: The penalty is too small for them.
            OverflowError: With the penalty, they leave 62 bits.
        """


def closed_form_of(model: nn.Module) -> ClosedForm[Any]:
    """Return the closed-form part of a sub-model.

    Raises:
        TypeError: There is none.
    """
    found = next((module for module in model.modules() if isinstance(module, ClosedForm)), None)
    if found is None:
        raise TypeError("a closed-form learner needs a closed-form model")
    return found
