"""The SQL schema: only requests, tombstones, versions and outcomes; never a row per sample."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={  # a later migration can only change what has a name, the same on every database
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)
_Big = sa.BigInteger().with_variant(
    sa.Integer, "sqlite"
)  # SQLite's integers have 64 bits, and number rows only as such

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
requests = sa.Table(
    "requests",
    metadata,
    sa.Column("seq", _Big, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.String(40), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("strategy", sa.String(16), nullable=False),
    sa.Column("caller", sa.String(80), nullable=False, default=""),
    sa.Column("keys", sa.Integer, nullable=False),
    sa.Column("already_forgotten", sa.Integer, nullable=False, default=0),
    sa.Column("ignored_unknown", sa.Integer, nullable=False, default=0),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("deadline_at", sa.Float),
    sa.Column("planned_at", sa.Float),
    sa.Column("quarantined_at", sa.Float),
    sa.Column("applied_at", sa.Float),
    sa.Column("served_at", sa.Float),
    sa.Column("exact_at", sa.Float),
    sa.Column("purged_at", sa.Float),
    sa.Column("version_before", sa.Integer),
    sa.Column("version_after", sa.Integer),
    sa.Column("version_exact", sa.Integer),
    sa.Column("certificate", sa.Integer),
    sa.Column("origin", sa.String(80)),  # the linked model and its request that this one is of
    sa.Column("reason", sa.Text),
    sa.Column("hastened_at", sa.Float),  # the earliest deadline of later requests that rely on it
    # A page of a list, of any caller and in any state, is read from one of these; so is what limits a caller.
    sa.Index(None, "state", "seq"),
    sa.Index(None, "caller", "seq"),
    sa.Index(None, "caller", "state", "seq"),
    sa.Index(None, "caller", "received_at"),
)
reliances = sa.Table(  # requests that revoked rows of a later one before it
    "reliances",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("earlier", sa.String(40), primary_key=True, index=True),
    sa.Column("waits", sa.Boolean, nullable=False),  # it ends when that one has: no tombstone of its own names the rows
)
named = sa.Table(  # HMACs of ids and groups that a request names, and whose guard entry is an earlier one's
    "named",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("mac", sa.LargeBinary(32), primary_key=True, index=True),
)
claims = sa.Table(  # what such a request asks for, as long as one that it relies on may be cancelled
    "claims",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("document", sa.LargeBinary, nullable=False),  # masked: no search for purged rows must find them here
)
idempotency = sa.Table(  # the primary key, not a look-up, prevents doubles
    "idempotency",
    metadata,
    sa.Column("key", sa.LargeBinary(32), primary_key=True),  # HMAC of the caller and the key
    sa.Column("key_id", sa.String(16), nullable=False, index=True),  # the guard key that made both HMACs
    sa.Column("payload", sa.LargeBinary(32)),  # HMAC of what was asked; emptied when the request's rows are purged
    sa.Column("request_id", sa.String(40), nullable=False, index=True),
)
tombstones = sa.Table(
    "tombstones",
    metadata,
    sa.Column("seq", _Big, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.String(40), nullable=False, index=True),
    sa.Column("kind", sa.String(5), nullable=False),
    sa.Column("key", sa.LargeBinary(16)),  # emptied by the purge: what is left are counts
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("slice", sa.Integer, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),  # training rows that no earlier tombstone had revoked
    sa.UniqueConstraint("key", "kind", "shard", "slice"),
    sa.Index("tombstone_counts", "shard", "slice", "seq", "rows"),  # a plan counts them without reading the table
    sqlite_autoincrement=True,  # a cancelled tombstone's number is never given out again
)
needs = sa.Table(  # shards that must have removed tombstones up to a number before a request is fulfilled
    "needs",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("upto", _Big, nullable=False),
)
rounds = sa.Table(  # which rounds worked for which request: its removal, and its exact repairs
    "rounds",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("round_id", sa.String(40), primary_key=True, index=True),
)
guard = sa.Table(  # what must not come back: HMACs of forgotten ids and groups
    "guard",
    metadata,
    sa.Column("mac", sa.LargeBinary(32), primary_key=True),
    sa.Column("kind", sa.String(5), nullable=False),
    sa.Column("key_id", sa.String(16), nullable=False),
    sa.Column("request_id", sa.String(40), nullable=False, index=True),
    sa.Column("returns", sa.Boolean, nullable=False, default=False),  # a correction brings it back
    sa.Column("absent", sa.Boolean, nullable=False, default=False),  # no row of it was here: a linked model had some
    sa.Column("listed", sa.LargeBinary(32)),  # its digest in exclusion manifests; empty: an earlier release made it
)
approvals = sa.Table(  # requests that another caller has to agree to, or did
    "approvals",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("rows", _Big, nullable=False),  # that it would revoke, when it was proposed
    sa.Column("document", sa.LargeBinary),  # what it names, masked, until it is decided
    sa.Column("approved_by", sa.String(80)),
    sa.Column("approved_at", sa.Float),
)
links = sa.Table(  # models over the same people, each with tables and a ledger of its own
    "links",
    metadata,
    sa.Column("system", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("settings", sa.Text, nullable=False),  # JSON: how to reach it
    sa.Column("linked_at", sa.Float, nullable=False),
    sa.Column("settled_at", sa.Float),  # what either had forgotten before is known to both
    sa.Column("retired_at", sa.Float),
)
forwards = sa.Table(  # which linked model has which request
    "forwards",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("system", sa.String(32), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("there", sa.String(40)),  # the request that it became
    sa.Column("tried_at", sa.Float),
    sa.Column("reason", sa.Text),
)
outbox = sa.Table(  # what linked models are told of a request, until each of them has it
    "outbox",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("document", sa.LargeBinary, nullable=False),  # masked: no search for purged rows must find them here
)
webhook_receivers = sa.Table(  # who is told of requests: events are written for these, in the same transactions
    "webhook_receivers",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("events", sa.String(200), nullable=False),
    sa.Column("added_at", sa.Float, nullable=False),
    sa.Column("removed_at", sa.Float),  # no longer in the configuration: nothing new is written for it
)
webhook_events = sa.Table(  # what a receiver has still to be told; a row goes when the receiver has acknowledged it
    "webhook_events",
    metadata,
    sa.Column("seq", _Big, primary_key=True, autoincrement=True),
    sa.Column("receiver", sa.String(40), nullable=False),
    sa.Column("request_id", sa.String(40), nullable=False),
    sa.Column("event", sa.String(16), nullable=False),
    sa.Column("message_id", sa.String(40), nullable=False),  # the same at every try
    sa.Column("document", sa.Text, nullable=False),  # JSON: state, versions and times when it happened
    sa.Column("occurred_at", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("first_tried_at", sa.Float),
    sa.Column("next_at", sa.Float, nullable=False, default=0.0),
    sa.Column("problem", sa.String(80)),  # of the last try, in our words: an answer's text is never kept
    sa.Column("dead_at", sa.Float),  # given up, until somebody has it tried again
    sa.Index(None, "receiver", "request_id", "seq"),
    sa.Index(None, "receiver", "dead_at", "next_at"),
    sqlite_autoincrement=True,  # receivers see these numbers grow
)
overdue = sa.Table(  # requests of which receivers of webhooks were told that their deadline is past
    "overdue",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("told_at", sa.Float, nullable=False),
)
replies = sa.Table(  # privacy requests of Fides that wait for an answer; a row goes when it was taken
    "replies",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),  # theirs
    sa.Column("request_id", sa.String(40), nullable=False, index=True),
    sa.Column("path", sa.String(200), nullable=False),
    sa.Column("token", sa.LargeBinary, nullable=False),  # masked; it lets its holder resume that privacy request
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("first_tried_at", sa.Float),
    sa.Column("next_at", sa.Float, nullable=False, default=0.0),
    sa.Column("problem", sa.String(80)),
    sa.Column("dead_at", sa.Float),  # given up
)
tokens = sa.Table(  # who may call the HTTP interface
    "tokens",
    metadata,
    sa.Column("token_id", sa.String(10), primary_key=True),
    sa.Column("caller", sa.String(80), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("scopes", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("revoked_at", sa.Float),
)
console_sessions = sa.Table(  # browsers that came in with a token
    "console_sessions",
    metadata,
    sa.Column("digest", sa.LargeBinary(32), primary_key=True),
    sa.Column("token_id", sa.String(10), nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("ends_at", sa.Float, nullable=False),
)
guard_losses = sa.Table(  # the log of entries that were given up with their key
    "guard_losses",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("key_id", sa.String(16), nullable=False),
    sa.Column("entries", sa.Integer, nullable=False),
    sa.Column("caller", sa.String(80), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
readmissions = sa.Table(  # the log of what was let back in
    "readmissions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("mac", sa.LargeBinary(32), nullable=False),
    sa.Column("request_id", sa.String(40), nullable=False),
    sa.Column("caller", sa.String(80), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
ingestions = sa.Table(
    "ingestions",
    metadata,
    sa.Column("seq", _Big, primary_key=True, autoincrement=True),
    sa.Column("ingest_id", sa.String(40), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("source", sa.String(200), nullable=False),
    sa.Column("slices", sa.Integer, nullable=False),
    sa.Column("epochs", sa.Integer, nullable=False),
    sa.Column("rows", _Big, nullable=False),
    sa.Column("skipped", _Big, nullable=False),
    sa.Column("generation", sa.Integer),
    sa.Column("version", sa.Integer),
    sa.Column("after_request", sa.String(40), index=True),
    sa.Column("caller", sa.String(80), nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("applied_at", sa.Float),
    sa.Column("served_at", sa.Float),
    sa.Column("reason", sa.Text),
)
seals = sa.Table(  # what the files of the lake hold: one row a file
    "seals",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("seal", sa.String(64)),  # empty: it is being made
    sa.Column("next", sa.String(64)),  # while it is rewritten: either is right
)
evidence = sa.Table(  # of requests that are not purged yet, made before their rows went
    "evidence",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("refused", sa.Text),  # why it does not show the deletion
)
surveys = sa.Table(  # what a running purge removes, so that it can go on after a crash
    "surveys",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("document", sa.LargeBinary, nullable=False),  # masked: a search for what went must not find it here
)
holds = sa.Table(  # legal holds: what they cover is not purged
    "holds",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.String(40)),  # empty: everything
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("caller", sa.String(80), nullable=False),
    sa.Column("placed_at", sa.Float, nullable=False),
    sa.Column("lifted_at", sa.Float),
)
versions = sa.Table(
    "versions",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
version_shards = sa.Table(  # only the shards that a version changed
    "version_shards",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False, index=True),
    sa.Column("blob", sa.String(64)),
    sa.Column("exact", sa.Boolean, nullable=False),
    sa.Column("removed_upto", _Big, nullable=False),
    sa.Column("exact_upto", _Big, nullable=False),
    sa.Column(
        "checkpoints", sa.Text, nullable=False
    ),  # JSON: [slice, lineage key, blob] per slice of the last exact run
    sa.Column("error_spent", sa.Float, nullable=False),
    sa.Column("strategy", sa.String(16), nullable=False),
    sa.Column("head", sa.String(64)),  # of the last exact run's lineage
    sa.Column("generations", sa.Integer, nullable=False, default=1),  # of rows that the last exact run was made of
)
evaluations = sa.Table(  # how good a version is on held-out rows
    "evaluations",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("evaluated_at", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("document", sa.Text, nullable=False),  # JSON: split → rows, metrics of the ensemble and of sub-models
)
serving = sa.Table(
    "serving",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("replica_id", sa.String(80), primary_key=True),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("quarantined_upto", _Big, nullable=False, default=0),
    sa.Column("role", sa.String(16), nullable=False),
)
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("holder", sa.String(80), nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)
outcomes = sa.Table(  # plan against actual, for every request
    "outcomes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("round_id", sa.String(40), nullable=False, index=True),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("strategy", sa.String(16), nullable=False),
    sa.Column("rule", sa.String(16), nullable=False),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("first_slice", sa.Integer, nullable=False),
    sa.Column("revoked", sa.Integer, nullable=False),
    sa.Column("sample_visits", _Big, nullable=False),
    sa.Column("planned_visits", _Big, nullable=False),
    sa.Column("estimated_seconds", sa.Float, nullable=False),
    sa.Column("measured_seconds", sa.Float, nullable=False),
)
curves = sa.Table(  # what updates did to canaries, one row per set of them
    "curves",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("first_slice", sa.Integer, nullable=False),
    sa.Column("share", sa.Float, nullable=False),
    sa.Column("slices", sa.Integer, nullable=False),
    sa.Column("canaries", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("updates", sa.Text, nullable=False),  # JSON: update → gaps, deviations and accuracy changes per step
    sa.Column("controls", sa.Text, nullable=True),  # JSON: what updates are held against
    sa.Column("digests", sa.LargeBinary, nullable=False),  # 16 bytes each: the revocation of one spoils the row
)
costs = sa.Table(  # what the cost model learns from
    "costs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("strategy", sa.String(16), nullable=False),
    sa.Column("visits", _Big, nullable=False),
    sa.Column("checkpoints", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("rows", _Big, nullable=False),
)
