"""Trained systems whose requests are purged, and an independent look at what is left of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import hybridmu
from hybridmu.core.kernel.partition import digest
from hybridmu.core.proof.byte_search import Needles, spelled
from hybridmu.store.certificates import Certificates
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.store.keyring import Keyring
from hybridmu.types import RequestState
from hybridmu.verifier.checks import check, check_chain
from tests import reference_certificate
from tests.system.test_exactness import FEATURES, SGD, assert_equal_to_reference, config_for

POLICY = {"verify_share": 0.0, "calibrate": False}


class World:
    """A trained system whose requests are purged; `gone` is what was forgotten so far."""

    def __init__(self, system: hybridmu.System, config: dict[str, Any], table: Path) -> None:
        self.system, self.config, self.table = system, config, table
        self.gone_ids: set[object] = set()
        self.gone_groups: set[str] = set()

    @property
    def storage(self) -> Path:
        return Path(self.config["storage_url"])

    @property
    def certificates(self) -> list[dict[str, Any]]:
        return Certificates(self.system.site.storage).all()

    def places(self, ids: Iterable[object]) -> dict[int, list[object]]:
        """Return shard → those of these ids that have rows there."""
        found, missing = Lookup(self.system.site.lake).find([("id", row) for row in ids])
        gone = {unknown.value for unknown in missing}
        places: dict[int, list[object]] = {}
        for row, key in zip([row for row in ids if row not in gone], found, strict=True):
            places.setdefault(key.shard, []).append(row)
        return places

    def forget(self, ids=(), groups=(), **options) -> str:
        self.gone_ids |= set(ids)
        self.gone_groups |= set(groups)
        report = self.system.forget(ids=ids, groups=groups, **{"strategy": "retrain", "wait": True, **options})
        return str(report["request_id"])

    def run(self) -> None:
        self.system.run(until_idle=True)

    def request(self, name: str):
        return self.system.ledger.request(name)

    def state(self, name: str) -> RequestState:
        return self.request(name).state

    def assert_exact(self) -> None:
        assert_equal_to_reference(self.system, self.config, self.table, self.gone_ids, self.gone_groups)

    def assert_nothing_left(self, ids=(), groups=()) -> None:
        """Decode and search every file there is, with code that shares nothing with the purge."""
        key = self.system.site.lake.key
        kinds = [("id", self.config["data"]["id"], set(ids)), ("group", self.config["data"]["group"], set(groups))]
        named = {digest(key, kind, value) for kind, _, values in kinds for value in values}
        raw = {
            value.encode() for _, _, values in kinds for value in values if isinstance(value, str) and len(value) > 7
        }
        needles = Needles(spelled(named | raw))
        for file in self.storage.rglob("*"):
            if not file.is_file():
                continue
            assert not needles.in_(str(file).encode() + file.read_bytes()), file.name
            if file.suffix == ".parquet":
                for row in pq.read_table(file).to_pylist():
                    for _, column, values in kinds:
                        assert row.get(column) not in values, file.name
                    assert not named & set(filter(lambda x: isinstance(x, bytes), row.values())), file.name

    def assert_swept(self) -> None:
        """Blobs and lineage are those of the served version, and no other."""
        subs = self.system.registry.version().shards
        refs = {ref for sub in subs for ref in (sub.blob, *(record.blob for record in sub.checkpoints)) if ref}
        keys = {record.lineage_key for sub in subs for record in sub.checkpoints}
        have = [self.system.site.blobs.listed(sub.shard) for sub in subs]
        assert set().union(*(found for found, _ in have)) == refs
        assert set().union(*(found for _, found in have)) == keys

    def assert_certified(self, *names: str) -> list[dict[str, Any]]:
        """Return the certificates of these requests: each has exactly one, valid, in an unbroken chain."""
        every = self.certificates
        public = [*Keyring(self.system.settings).public_keys().values()]
        findings = [*check_chain(every, public).items, *(item for one in every for item in check(one, public).items)]
        assert [item for item in findings if not item.ok] == []
        for one in every:
            reference_certificate.check(one)
            begun = [one["request"][f"{name}_at"] for name in ("received", "planned", "applied")]
            assert None not in begun
            assert begun == sorted(begun)
        ids = [one["request"]["id"] for one in every]
        assert len(set(ids)) == len(ids)
        for name in names:
            request = self.request(name)
            assert (request.state, request.reason) == (RequestState.PURGED, None)
            assert every[request.certificate - 1]["request"]["id"] == name
        return [every[self.request(name).certificate - 1] for name in names]


def make_tables(folder: Path, *, long_ids: bool, groups: int, rows: int = 90) -> dict[str, list]:
    """Write train, validation and test tables; return the ids of each."""
    random = np.random.default_rng(3)
    ids = {}
    for number, (split, count) in enumerate({"train": rows, "validation": 30, "test": 30}.items()):
        numbers = [number * 1000 + i for i in range(count)]
        ids[split] = [f"customer-{n:06d}" for n in numbers] if long_ids else [n * 7 + 3 for n in numbers]
        columns = {
            "id": ids[split],
            **{name: random.normal(size=count).astype(np.float32) for name in FEATURES},
            "label": [["no", "yes"][int(v)] for v in random.integers(0, 2, count)],
        }
        if groups:
            owners = random.integers(0, groups, count)
            columns["user"] = pa.array([None if i % 11 == 0 else f"household-{owners[i]}" for i in range(count)])
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return ids


@contextmanager
def world(folder: Path, *, groups: int = 0, shards: int = 3, slices: int = 3, **overrides: Any) -> Iterator[World]:
    table = folder / "train.parquet"
    config = config_for(folder, table, shards=shards, slices=slices, epochs=3, batch=4, optimizer=SGD, groups=groups)
    for split in ("validation", "test"):
        if (folder / f"{split}.parquet").exists():
            config["data"][split] = str(folder / f"{split}.parquet")
    config["policy"] = POLICY
    for name, value in overrides.items():
        config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        yield World(system, config, table)


def make_table(rows: int) -> pa.Table:
    random = np.random.default_rng(0)
    features = {name: random.normal(size=rows).astype(np.float32) for name in FEATURES}
    labels = [["no", "yes"][int(v)] for v in random.integers(0, 2, rows)]
    return pa.table({"id": [i * 7 + 3 for i in range(rows)], **features, "label": labels})
