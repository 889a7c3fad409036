"""Encoding of rows as they come in by tasks of the cluster, some parts at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from hybridmu.cluster.resources import ensure_ray, nodes, slots
from hybridmu.config import Settings
from hybridmu.core.features.derived import Derivation
from hybridmu.core.features.encoding_parts import (
    Part,
    derivation_of,
    document_of,
    encoded_part,
    from_bytes,
    in_order,
    spread,
    to_bytes,
)
from hybridmu.errors import HybridMUError, StateError

_RETRIES = 2  # of a part whose worker was killed


class EncodingTasks:
    """Encodes parts on as many cores as the cluster has room for; `close` leaves Ray, if this object joined it.

    Rows go through Ray's object store, 256 MB of them at most at a time, and leave it when their features are here.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._ours = settings, False

    def __call__(self, derivation: Derivation, parts: Iterable[Part]) -> Iterator[pa.Table]:
        """Return the derived columns of parts, in their order.

        Args:
            derivation: Its encoders.
            parts: Rows.

        Returns:
            An iterator. It raises a DataError that names the row where a value can't be encoded, and a StateError
            where a worker ended again and again, or has another encoder.
        """
        return spread(derivation, parts, lambda left: self._apart(derivation, left))

    def close(self) -> None:
        """Leave Ray, if this object joined it."""
        if self._ours:
            ray.shutdown()
            self._ours = False

    def _apart(self, derivation: Derivation, parts: Iterator[Part]) -> Iterator[pa.Table]:
        self._ours = ensure_ray(self._settings) or self._ours
        labels = self._settings.cluster.labels
        room = sum(slots(self._settings, nodes(labels)).values())
        document = ray.put(document_of(self._settings, derivation))
        task = ray.remote(num_cpus=1, max_retries=_RETRIES, **({"label_selector": dict(labels)} if labels else {}))(
            _encoded
        )
        yield from in_order(
            parts,
            lambda part: task.remote(document, part.to_bytes()),
            _features,
            lambda ref: ray.cancel(ref, force=True),
            2 * max(1, room),
        )


def _encoded(document: str, part: bytes) -> bytes:
    return to_bytes(encoded_part(derivation_of(document), Part.from_bytes(part)))


def _features(ref: ray.ObjectRef[bytes]) -> pa.Table:
    try:
        return from_bytes(ray.get(ref))
    except RayTaskError as error:
        if isinstance(error.cause, HybridMUError):
            raise error.cause from None
        raise
    except RayError as error:
        raise StateError(
            "a worker that encodes rows ended",
            got=f"{type(error).__name__}, {1 + _RETRIES} times with the same rows",
            remedy="killed for memory, it needs more, or smaller values; nothing was stored",
        ) from None
