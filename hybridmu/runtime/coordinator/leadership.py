"""Leadership: the coordinator's lease, taken, kept alive and released by one process, and the token it writes with."""

from __future__ import annotations

import time

from hybridmu.errors import LeaseLostError
from hybridmu.store.ledger.lease import Lease

LEASE_SECONDS = 15.0


class Leadership:
    """Holds the lease for one coordinator.

    Args:
        lease: The system's only one.
        holder: Name under which it is taken.
    """

    def __init__(self, lease: Lease, holder: str) -> None:
        self._lease, self._holder = lease, holder
        self._token: int | None = None
        self._renewed = 0.0

    def take(self) -> int | None:
        """Return the fencing token; None when another coordinator holds the lease."""
        self._token = self._lease.acquire(self._holder, LEASE_SECONDS)
        self._renewed = time.monotonic()
        return self._token

    def token(self) -> int:
        """Return the fencing token.

        Raises:
            LeaseLostError: The lease was not taken, or is released.
        """
        if self._token is None:
            raise LeaseLostError("this coordinator holds no lease", remedy="call acquire() first")
        return self._token

    def renew(self) -> None:
        """Keep the lease alive, when it is time for that.

        Raises:
            LeaseLostError: Another coordinator took over.
        """
        if time.monotonic() - self._renewed > LEASE_SECONDS / 5:
            self._lease.heartbeat(self.token(), LEASE_SECONDS)
            self._renewed = time.monotonic()

    def release(self) -> None:
        """Let another coordinator take over; without a lease nothing happens."""
        token, self._token = self._token, None
        if token is not None:
            self._lease.release(token)
