"""What all sections of the configuration have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Scalar = bool | int | float | str


class Section(BaseModel):
    """A group of keys, frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
