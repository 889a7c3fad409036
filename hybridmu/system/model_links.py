"""Linked models over the same people, and the successor that resharding makes."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from hybridmu.datasets import catalog
from hybridmu.errors import RequestError
from hybridmu.runtime.linked.peer import opened
from hybridmu.runtime.linked.resharding import prepare
from hybridmu.system.arguments import Caller, Configuration, Flag, Name, Reason, Watch, checked
from hybridmu.system.chosen_settings import inherited
from hybridmu.system.encoding import encoding
from hybridmu.system.session import Session
from hybridmu.system.training_runs import TrainingRuns


class ModelLinks:
    """Links of one system to other models.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def link(self, settings: Configuration) -> list[dict[str, Any]]:
        """Link another model over the same people: from now on a deletion that one of them accepts reaches both.

        All models that either is linked with are linked with each other. What any of them has forgotten before is
        forgotten in all when this returns, or a request there. Repeated after a crash or a restore, it does what is
        missing.

        Args:
            settings: The other model's configuration.

        Returns:
            As `models`.

        Raises:
            StateError: One of them is not trained, they don't have the same keys, or rows are on their way in.
            ConfigError: A configuration holds a password.
        """
        session = self._session
        session.check_bound()
        session.linked.link(catalog.resolved(settings))
        return self.models()

    @checked
    def models(self) -> list[dict[str, Any]]:
        """Return this model and all that it is or was linked with, read live, as JSON-able data."""
        session = self._session
        session.check_bound()
        return session.linked.all()

    @checked
    def retire(self, *names: Name, reason: Reason, caller: Caller = "", lost: Flag = False) -> list[dict[str, Any]]:
        """Decommission linked models, after their own requests are delivered; certificates and guards stay.

        Args:
            names: Which, as `models` names them.
            reason: Why, for the log.
            caller: Who.
            lost: They are out of reach for good: end the links only. Nothing of theirs is deleted by that.

        Returns:
            What went and what stays, per model; repeated after a crash, it finishes what was begun.

        Raises:
            StateError: There is no such model, its coordinator runs, a legal hold is in force, or it has requests that
                can't be delivered.
            RequestError: There is no reason.
        """
        session = self._session
        session.check_bound()
        if not names:
            raise RequestError("the retirement names no model", expected="at least one name")
        return session.linked.retire(names, reason, caller, lost=lost)

    @checked
    def reshard(self, settings: Configuration, watch: Watch = None) -> dict[str, Any]:
        """Make a successor of this model: its live rows in other shards and slices, or for another task or optimizer.

        Its encoders may be others too: features are then made again of the texts and pictures that are stored.

        It is linked first, so requests that come meanwhile reach it, then trained on all live rows as one generation.
        This model goes on answering until it is retired. Repeated after a crash, it goes on.

        Args:
            settings: The successor's configuration: the same `data` section and keys, another storage and database.
            watch: Called with a snapshot after every step of its training.

        Returns:
            JSON-able summary of the training, the successor's ancestry, and all linked models.

        Raises:
            StateError: Rows are on their way in, something else is in the successor's storage, or the two read other
                data or have other keys.
        """
        session = self._session
        session.refresh()
        session.close()  # its training needs what a coordinator of ours holds
        settings = catalog.resolved(settings)
        settings = inherited(settings, session.settings)
        with closing(Session(settings, session.executor)) as successor:
            with encoding(successor) as encode, opened(session.settings) as old:
                prepare(old, settings, encode)
            summary = TrainingRuns(successor).train(watch)
            ancestry = successor.site.lake.manifest.ancestry
        assert ancestry is not None
        session.linked.link(settings)  # it has rows now: nothing that was forgotten meanwhile may be among them
        delivered = session.linked.deliver()
        past = {"name": ancestry.name, "system": ancestry.system, "version": ancestry.version}
        past |= {"tombstones": ancestry.tombstones, "rows": ancestry.rows, "root": ancestry.root}
        return {**summary, "predecessor": past, "delivered": delivered, "models": self.models()}
