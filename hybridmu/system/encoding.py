"""Choice of what encodes rows that come in: processes of this machine, or tasks of the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from hybridmu.system.session import Session

if TYPE_CHECKING:  # loads pandas, which a system without encoders does without
    from hybridmu.core.features.encoding_parts import Encode


@contextmanager
def encoding(session: Session) -> Iterator[Encode | None]:
    """Yield what encodes rows, which stops at the end; None where there is nothing to encode.

    Args:
        session: Of the system.
    """
    if not (session.given.features.text or session.given.features.image):
        yield None
        return
    if session.executor == "ray":
        from hybridmu.cluster.encoding_tasks import EncodingTasks

        with closing(EncodingTasks(session.settings)) as tasks:
            yield tasks
        return
    from hybridmu.runtime.workers.encoding_processes import EncodingProcesses

    with closing(EncodingProcesses(session.settings)) as processes:
        yield processes
