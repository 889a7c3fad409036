"""One error tree; every message says what was expected, what was got, and what to do.

::

    HybridMUError
    ├── ConfigError            a key or value of the configuration is wrong
    ├── DataError              the source table can't be used as it is
    ├── RequestError           a forget request is refused, nothing was changed
    │   ├── UnknownKeysError   ids or groups that no live row has
    │   ├── ConflictError      an idempotency key was reused with another payload
    │   ├── WouldEmptyError    the request would leave no row to train on
    │   └── AdmissionError     a caller asks for more than its limits allow
    ├── StateError             the system is not in the state the call needs
    │   ├── StorageMismatchError  storage belongs to another configuration
    │   └── DatabaseError      the database can't be reached, or broke off; nothing is half-written
    ├── LeaseLostError         another coordinator took over
    ├── StorageError           storage can't be read or written
    ├── CorruptBlobError       stored bytes do not match their hash
    ├── CertificateRefusedError  the evidence does not show what a certificate would say
    ├── StrategyUnavailableError  a forced strategy can't run here
    ├── UserExitError          the task's code raised what ends a process
    ├── DivergedError          training produced non-finite weights
    ├── ShardFailedError       a shard job failed after all its attempts
    ├── PurgeError             something that must be gone was found
    ├── MissingExtraError      an optional dependency that the call needs is not installed
    └── ResourceError          the cluster is too small for the plan
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Characters of one part of a message, and of a key in it.
_LONGEST, _LONGEST_KEY = 2000, 100


class HybridMUError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: What went wrong, one sentence.
        expected: What would have been right.
        got: What was found instead.
        remedy: What the reader can do about it.
    """

    def __init__(self, what: str, *, expected: str = "", got: str = "", remedy: str = "") -> None:
        what, expected, got, remedy = (_cut(_encodable(part)) for part in (what, expected, got, remedy))
        self.what, self.expected, self.got, self.remedy = what, expected, got, remedy
        parts = [what]
        parts += [f"expected: {expected}"] if expected else []
        parts += [f"got: {got}"] if got else []
        parts += [f"remedy: {remedy}"] if remedy else []
        super().__init__("\n  ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        """Return how to rebuild it on the other side of a process border, keyword arguments included."""
        return (_rebuild, (type(self), self.__dict__.copy(), self.args))


def _encodable(text: str) -> str:
    """Return a text that any file, terminal and database takes: a file's name may be no UTF-8."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _cut(text: str) -> str:
    """Return a part of a message without the middle of what nobody would read: a path of 100,000 letters, for one."""
    left_out = len(text) - _LONGEST
    return text if left_out <= 0 else f"{text[: _LONGEST - 200]}… ({left_out:,} characters) …{text[-200:]}"


def _rebuild(kind: type[HybridMUError], state: dict[str, object], args: tuple[object, ...]) -> HybridMUError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(HybridMUError):
    """A key or value of the configuration is wrong."""


class DataError(HybridMUError):
    """The source table can't be used as it is."""


class RequestError(HybridMUError):
    """A forget request is refused; nothing was changed."""


class UnknownKeysError(RequestError):
    """Ids or groups that no row of the system has.

    Args:
        unknown: The keys as the caller wrote them, in the caller's order.
        any_known: Whether the call named others that are known.
        elsewhere: Linked model → how many of the unknown ones have rows there.
    """

    def __init__(
        self, unknown: Sequence[str], *, any_known: bool = True, elsewhere: Mapping[str, int] | None = None
    ) -> None:
        self.unknown = tuple(unknown)
        first = (key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}…" for key in self.unknown[:10])
        shown = ", ".join(first) + (f" … and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        super().__init__(
            f"{len(unknown)} id(s) or group(s) are unknown" if any_known else "none of the ids and groups is known",
            expected="keys of rows in the train, validation or test table",
            got=shown,
            remedy=_correct(any_known, elsewhere or {}),
        )


def _correct(any_known: bool, elsewhere: Mapping[str, int]) -> str:
    if not elsewhere:
        return "correct the list" + (", or pass --ignore-unknown to forget the known ones" if any_known else "")
    there = ", ".join(f"{count} of them in model {name}" for name, count in elsewhere.items())
    how = ", or pass --ignore-unknown here: they are passed on to it" if any_known else ""
    return f"there are rows of {there}: ask it there, with that model's configuration{how}"


class ConflictError(RequestError):
    """An idempotency key was reused with another payload."""


class WouldEmptyError(RequestError):
    """The request would leave no row to train on."""


def would_empty() -> WouldEmptyError:
    """Return the refusal of the last training row."""
    return WouldEmptyError(
        "this request would leave no row to train on",
        expected="at least one live training row",
        remedy="to forget everything, run `hybridmu decommission`",
    )


class AdmissionError(RequestError):
    """A caller asks for more than its limits allow; nothing was changed."""


def too_many_keys(count: int, most: int) -> AdmissionError:
    """Return the refusal of a call that names more than one may."""
    return AdmissionError(
        "the request names too many ids and groups",
        expected=f"at most {most}",
        got=str(count),
        remedy="split it, or raise admission.keys_per_request",
    )


class StateError(HybridMUError):
    """The system is not in the state that the call needs."""


class StorageMismatchError(StateError):
    """Storage belongs to another configuration (other seed, model, data columns)."""


class DatabaseError(StateError):
    """The database can't be reached, is full or busy, or broke off; nothing is half-written, a call may be repeated."""


class LeaseLostError(HybridMUError):
    """Another coordinator took over; this one must stop writing."""


class StorageError(HybridMUError):
    """Storage can't be read or written: full, read-only, forbidden, out of reach; nothing is half-written."""


class CorruptBlobError(HybridMUError):
    """Stored bytes do not match the hash they are named by."""


class CertificateRefusedError(HybridMUError):
    """The evidence does not show what a certificate would say; none is made."""


class StrategyUnavailableError(HybridMUError):
    """A forced strategy can't run on this shard."""


class UserExitError(HybridMUError):
    """The task's code raised what ends a process: `sys.exit()`, or an exception of its own outside of `Exception`."""


class DivergedError(HybridMUError):
    """Training produced non-finite weights."""


class ShardFailedError(HybridMUError):
    """A shard job failed after all its attempts."""


class PurgeError(HybridMUError):
    """Something that must be gone was found."""


class MissingExtraError(HybridMUError):
    """An optional dependency that the call needs is not installed."""


class ResourceError(HybridMUError):
    """The cluster is too small for what the configuration asks."""
