"""What the endpoints take and give."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

from hybridmu.core.partition import LONGEST_KEY, check_key
from hybridmu.errors import DataError, HybridMUError
from hybridmu.serving import api
from hybridmu.types import RequestState, StrategyChoice

# PostgreSQL has no text with NUL in it.
_Text = Annotated[StrictStr, Field(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]


def _nameable(value: int | str) -> int | str:
    """Return an id or group that a table may hold.

    Raises:
        ValueError: No table may.
    """
    try:
        check_key(value)
    except DataError as error:
        raise ValueError(f"{error.what}: expected {error.expected}") from None
    return value


# The limits are `check_key`'s, repeated for the schema that callers see.
Key = Annotated[
    Annotated[StrictInt, Field(json_schema_extra={"minimum": -(2**63), "maximum": 2**64 - 1})]
    | Annotated[StrictStr, Field(json_schema_extra={"maxLength": LONGEST_KEY})],
    AfterValidator(_nameable),
]


class Keys(BaseModel):
    """Ids and groups to forget.

    Attributes:
        ids: Row ids. A number may be sent as text: not every JSON writer keeps all digits beyond 2^53.
        groups: Groups: every row of these people.
        strategy: `auto` lets the planner choose per shard.
        ignore_unknown: Leave unknown ones out instead of refusing.
    """

    model_config = ConfigDict(extra="forbid")
    ids: list[Key] = []
    groups: list[Key] = []
    strategy: StrategyChoice = "auto"
    ignore_unknown: bool = False

    @model_validator(mode="after")
    def _some(self) -> Keys:
        if not self.ids and not self.groups:
            raise ValueError("name at least one id or group")
        return self


class Forget(Keys):
    """A deletion request.

    Attributes:
        key: Idempotency key: the same key and body are one request, however often they are sent.
        deadline_seconds: How long from now until it must be exact and purged; the policy's by default.
    """

    key: Annotated[_Text, Field(max_length=200)] | None = None
    deadline_seconds: Annotated[float, Field(gt=0, le=1e9)] | None = None


class Report(BaseModel):
    """How far a request is. Times are seconds since the epoch, UTC; more fields as `hybridmu requests show --json`."""

    model_config = ConfigDict(extra="allow")
    request_id: str
    state: RequestState
    caller: str
    keys: int
    received_at: float
    deadline_at: float | None
    planned_at: float | None
    quarantined_at: float | None
    applied_at: float | None
    served_at: float | None
    exact_at: float | None
    purged_at: float | None
    certificate: int | None
    reason: str | None


class PlanAnswer(BaseModel):
    """What a request would do and cost, and why; more fields as `hybridmu plan --json`."""

    model_config = ConfigDict(extra="allow")
    makespan_seconds: float
    shards: list[dict[str, Any]]
    warnings: list[str]
    explanation: str


class Problem(BaseModel):
    """Why a call was refused; nothing was changed by it."""

    error: str
    what: str
    expected: str = ""
    got: str = ""
    remedy: str = ""


def problem(error: HybridMUError) -> Problem:
    """Return an error as the body of an answer."""
    return Problem(error=type(error).__name__, **api.problem(error))
