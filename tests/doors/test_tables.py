"""Whatever table is given: it comes in whole, and every part of it can be named and served; or it is refused, whole."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume

from hybridmu.config import Settings
from hybridmu.core.kernel.partition import digest
from hybridmu.errors import HybridMUError
from hybridmu.server.schemas import Keys
from hybridmu.serving.ensemble import Ensemble
from hybridmu.store.dataset.ingest import ingest
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.spelled_values import NULL_WORDS
from hybridmu.store.storage.storage import Storage
from tests.doors.fuzz import inputs, tried
from tests.doors.tables import Case, cases

BOTH = ("true", "false")
_DECLARED = ("fills", "categories", "hash_buckets", "scale")


def through_the_door(case: Case) -> None:
    """Read a table as `train` does, and check that nothing was lost without a word."""
    with tempfile.TemporaryDirectory(prefix="doors-") as folder:
        train = case.write(Path(folder))
        assume(train is not None)
        raw = {
            "data": {**case.data, "train": train, "test_fraction": 0},
            "sisa": {"shards": 2, "slices": 2, "epochs": 1, "min_rows": 0},
            "storage_url": str(Path(folder) / "storage"),
        }
        storage = Path(folder) / "storage"
        try:
            made = Settings.parse(raw)
            lake = Lake(made, Storage(made.storage_url))
            ingest(lake)
        except HybridMUError as error:
            refused = error
        else:
            whole(case, lake)
            return
        assert refused.what
        assert not [file for file in storage.rglob("*.parquet") if file.is_file()], "a half of it came in"


def whole(case: Case, lake: Lake) -> None:
    """Check that every row, column and declaration came in, and that every row can be named and served."""
    data, manifest = lake.settings.data, lake.manifest
    encoder = manifest.encoder
    files = [name for shard in range(lake.shards) for name in lake.files("train", shard)]
    assert sum(table.num_rows for table in lake.tables(files)) == case.rows
    assert not set(case.strangers) & {"broken.parquet"}, "a file was left out"

    expected = {name for name in case.columns if name not in {data.id, data.group, data.label}}
    if data.features is not None:
        expected = set(data.features)
    else:
        expected -= {"__index_level_0__"}  # pandas' name for an index, and nobody else's
    features = [column.name for column in encoder.columns]
    assert len(features) == len(set(features))
    if any("=" in part.name for part in case.parts) and data.features is None:
        expected.add("k")  # the folder k=1
    assert set(features) == expected
    assert features, "nothing is learned from"
    for declared in _DECLARED:
        assert set(getattr(data, declared)) <= set(features)

    lookup = Lookup(lake)
    keys = [("id", data.id)] + ([("group", data.group)] if data.group else [])
    for kind, name in keys:
        for value in {repr(v): v for v in case.columns[name][1]}.values() if name in case.columns else ():
            if value is None:
                assert kind == "group"
                continue
            if case.format == "csv" and (type(value) not in {int, str} or value in NULL_WORDS):
                continue  # a text there, or no value among numbers
            if case.format == "csv" and any("decimal" in part.recast.get(name, "") for part in case.parts):
                continue  # 0 is spelled 0.00 there, which is a text
            known, unknown = lookup.find([(kind, value)])
            assert known, f"a {kind} came in that can't be named: {value!r}"
            assert not unknown
            body = Keys.model_validate_json(json.dumps({f"{kind}s": [value]}))
            assert lookup.find([(kind, getattr(body, f"{kind}s")[0])])[0], "HTTP names another"

    labels = case.columns[data.label][1]
    if case.format == "csv":  # which says of no value whether it is a number or a text
        assert {str(label) for label in labels if type(label) in {int, str}} <= {*map(str, encoder.classes), *BOTH}
        return
    assert {str(label) if isinstance(label, str) else int(label) for label in labels} <= set(encoder.classes)
    assert len(set(encoder.classes)) == len(encoder.classes)
    served(case, lake, features)


def served(case: Case, lake: Lake, features: list[str]) -> None:
    """Check that a row that is served as JSON becomes the numbers that it was trained on."""
    encoder, name = lake.manifest.encoder, lake.settings.data.id
    trained: dict[bytes, Any] = {}
    for shard in range(lake.shards):
        rows = lake.rows("train", shard, set())
        trained |= {key.tobytes(): row for key, row in zip(rows.ids, rows.x.numpy(), strict=True)}
    assert all(np.isfinite(row).all() for row in trained.values())
    lookup, ensemble = Lookup(lake), Ensemble(1, {}, encoder, "mean")
    plain = [feature for feature in features if feature in case.columns]
    if plain != features:
        return  # a folder's name is a column: what it holds is not in the case
    held = {feature: case.held(feature) for feature in features}
    for place, value in enumerate(case.columns[name][1]):
        expected = trained[digest(lake.key, "id", lookup.typed("id", value))]
        row = {feature: values[place] for feature, values in held.items()}
        if all(map(is_json, row.values())):
            sent = json.loads(json.dumps(row))
            np.testing.assert_array_equal(ensemble.encode([sent])[0], expected, err_msg=str(sent))


def is_json(value: Any) -> bool:
    """Return whether JSON has such a value, and gives it back as it was."""
    if isinstance(value, list):
        return all(map(is_json, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))


@inputs(500)
def test_a_table_comes_in_whole_or_not_at_all(count: int) -> None:
    tried(count, cases(), through_the_door)
