"""Occupied shards: where something is at work, so that nothing else starts there."""

from __future__ import annotations

from hybridmu.runtime.coordinator.calibrator import Calibrator
from hybridmu.runtime.coordinator.dispatcher import Dispatcher
from hybridmu.runtime.coordinator.first_training import FirstTraining
from hybridmu.runtime.coordinator.open_rounds import OpenRounds
from hybridmu.runtime.coordinator.purger import Purger


class OccupiedShards:
    """Asks everything that works on shards.

    Args:
        training: The first training.
        rounds: On the served version.
        calibrator: Deletes canaries.
        dispatcher: Knows jobs that lost their round, too.
        purger: Reserves shards, too.
    """

    def __init__(
        self,
        training: FirstTraining,
        rounds: OpenRounds,
        calibrator: Calibrator,
        dispatcher: Dispatcher,
        purger: Purger,
    ) -> None:
        self._training, self._rounds, self._purger = training, rounds, purger
        self._calibrator, self._dispatcher = calibrator, dispatcher

    def at_work(self) -> set[int]:
        """Return the shards that a round, a calibration, or a job that lost its round is at work on."""
        planned = {shard for r in self._rounds.rounds for shard in r.plans}
        return planned | self._calibrator.shards | self._dispatcher.shards

    def busy(self) -> set[int]:
        """Return the shards on which nothing else may start."""
        return self.at_work() | self._purger.shards

    def flying(self) -> bool:
        """Return whether any round, training, calibration or purge is at work."""
        return bool(self.at_work() or self._purger.shards or self._training.rounds)
