"""One thing that an examination looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: What it is.
        state: `ok`, `note` (works, and worth knowing) or `wrong`.
        says: What was found.
        remedy: What to do about it.
    """

    about: str
    state: State
    says: str
    remedy: str = ""
