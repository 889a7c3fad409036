"""Table of the command line's verbs: where each is defined, and its line in the list of commands.

The list is shown without importing any of them. A test compares these lines with the commands' own.
"""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """A verb, or a group of verbs.

    Attributes:
        module: Where it is defined, in `hybridmu.cli`.
        name: The function or group there.
        line: The first paragraph of its help.
    """

    module: str
    name: str
    line: str


VERBS: dict[str, Verb] = {
    "init": Verb(
        "init_command", "init", "Look at a table and write a commented configuration for it; nothing else is changed."
    ),
    "train": Verb("training_commands", "train", "Read the tables, train every shard and publish version 1."),
    "doctor": Verb(
        "doctor_command",
        "doctor",
        "Look at installation, configuration and system, and say what to do; fails when something is wrong.",
    ),
    "run": Verb(
        "training_commands",
        "run",
        "Run the coordinator until interrupted; fails when a shard's repair is left undone at the end.",
    ),
    "verify": Verb(
        "training_commands",
        "verify",
        "Retrain from scratch in fresh processes and compare; fails when a shard that claims to be exact is not.",
    ),
    "predict": Verb(
        "training_commands", "predict", "Predict the classes or values of rows offline with the served version."
    ),
    "evaluate": Verb(
        "evaluation_command",
        "evaluate",
        "Measure the served version on every held-out row that is not forgotten, and write a page of it.",
    ),
    "plan": Verb("request_commands", "plan", "Show what a deletion request would do and cost, without doing it."),
    "forget": Verb(
        "request_commands",
        "forget",
        "Commit a deletion request; with --wait follow the running coordinator, or become it.",
    ),
    "ingest": Verb(
        "row_commands",
        "ingest",
        "Commit new rows for a trained system; only their own slices are trained. Forgotten rows are skipped.",
    ),
    "correct": Verb(
        "row_commands",
        "correct",
        "Replace rows by corrected ones with the same ids: the old rows are forgotten and purged, then the new come "
        "in.",
    ),
    "readmit": Verb(
        "row_commands",
        "readmit",
        "Let forgotten ids and groups come in again with later data; the rows themselves do not come back by this.",
    ),
    "status": Verb(
        "operator_commands", "status", "Show version, rows, quality, debts and the next deadline, requests and holds."
    ),
    "pause": Verb(
        "operator_commands",
        "pause",
        "Accept requests, but claim none until `resume`; what runs is finished, repairs meet their deadlines.",
    ),
    "resume": Verb("operator_commands", "resume", "Claim requests again."),
    "hold": Verb(
        "operator_commands",
        "hold",
        "Place a legal hold: rows are forgotten by the model all the same, but not purged from storage.",
    ),
    "holds": Verb("operator_commands", "holds", "List the legal holds that are not lifted."),
    "lift": Verb("operator_commands", "lift", "End a legal hold."),
    "audit": Verb(
        "audit_commands",
        "audit",
        "Measure how well a strategy forgets; fails when the audit could not tell it from doing nothing.",
    ),
    "size": Verb(
        "size_command",
        "size",
        "Simulate a load of deletions with the costs that this system measured; nothing is changed.",
    ),
    "suggest": Verb(
        "suggest_command",
        "suggest",
        "Try a few ways to train on a sample, and show quality beside the cost of forgetting; changes no system.",
    ),
    "checkpoints": Verb(
        "storage_commands",
        "checkpoints",
        "Show which checkpoints checkpoints.budget_bytes makes us delete, and what the next deletion costs then.",
    ),
    "upgrade": Verb(
        "storage_commands",
        "upgrade",
        "Rewrite tables of an earlier release; with --plan show what code and libraries cost in lost checkpoints.",
    ),
    "decommission": Verb(
        "storage_commands",
        "decommission",
        "Forget everything: stop serving, delete every row, checkpoint and version. Certificates and the guard stay.",
    ),
    "reshard": Verb(
        "model_commands",
        "reshard",
        "Make a successor with other shards, slices, task or optimizer, from the live rows; repeat it after a crash.",
    ),
    "api": Verb(
        "server_commands",
        "api",
        "Answer HTTP calls for requests, plans and certificates until interrupted; docs/api.md.",
    ),
    "demo": Verb(
        "demo_command",
        "demo",
        "Forget a person's review, exactly and proven, and write a report.",
    ),
    "config": Verb("config_commands", "app", "Configuration: its JSON schema, for editors."),
    "data": Verb("dataset_commands", "app", "Built-in real datasets."),
    "requests": Verb("request_commands", "app", "Deletion requests: list, show, approve, take back, retry."),
    "ingests": Verb("row_commands", "ingests_app", "Ingestions of new rows: finished and waiting."),
    "guard": Verb(
        "row_commands",
        "guard_app",
        "Guard of forgotten ids and groups, which must not come in again; see docs/keys.md.",
    ),
    "certificate": Verb("certificate_commands", "app", "Certificates of deletion: verify, list, show, find."),
    "exclusions": Verb(
        "exclusion_commands", "app", "Training exclusions: manifests for holders of copies; docs/exclusions.md."
    ),
    "keys": Verb("key_commands", "app", "Signing and guard keys; see docs/keys.md."),
    "tokens": Verb("server_commands", "tokens_app", "Bearer tokens of the HTTP interface; see docs/api.md."),
    "webhooks": Verb(
        "webhook_commands", "app", "Webhooks of requests: receivers, what waits, trials; docs/webhooks.md."
    ),
    "models": Verb("model_commands", "app", "Linked models over the same people; see docs/models.md."),
    "ledger": Verb("storage_commands", "ledger", "Repair of ledger and tables after a restore."),
}
