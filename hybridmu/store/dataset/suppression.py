"""Suppression: what reading a table must leave out, as the dataset sees the ledger that remembers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hybridmu.types import KeyKind


class Suppression(Protocol):
    """Ids and groups that must not come in. The ledger's suppression list is one; the dataset knows no ledger."""

    def any(self) -> bool:
        """Return whether anything is suppressed at all."""
        ...

    def blocks(self, kind: KeyKind, values: Sequence[object], returning: str | None = None) -> npt.NDArray[np.bool_]:
        """Return which ids or groups must not come in, bool [n].

        Args:
            kind: Ids or groups.
            values: Raw, in the column's own type; null is never blocked.
            returning: Rows that the correction of this request revoked come in.
        """
        ...

    def check(self) -> None:
        """Check that everything that is suppressed can be recognised.

        Raises:
            StateError: It can't: a key is lost.
        """
        ...
