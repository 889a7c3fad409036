"""First configurations: what columns are taken for, and files that train as they are written."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import hybridmu
from hybridmu.config import Settings
from hybridmu.errors import DataError, HybridMUError
from hybridmu.system.first_config import first_config

ROWS = 60


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


COLUMNS = {
    "id": list(range(ROWS)),
    "customer": [row % 7 for row in range(ROWS)],
    "age": [20.0 + row for row in range(ROWS)],
    "city": [["Rome", "Oslo"][row % 2] for row in range(ROWS)],
    "name": [f"Alice Number {row}" for row in range(ROWS)],
    "note": ["word " * 12 + str(row) for row in range(ROWS)],
    "picture": [png(row) for row in range(ROWS)],
    "born": pa.array(list(range(ROWS)), pa.date32()),
    "size": [None if row % 5 == 0 else row for row in range(ROWS)],
    "label": [["no", "yes"][row % 3 == 0] for row in range(ROWS)],
}


def proposed(folder, columns=None, **named):
    pq.write_table(pa.table(columns or COLUMNS), folder / "t.parquet")
    named = {"id": None, "group": None, "label": None, "target": None} | named
    return first_config(str(folder / "t.parquet"), str(folder / "system"), **named)


def without(*names):
    return {name: values for name, values in COLUMNS.items() if name not in names}


def test_every_column_is_taken_for_something(tmp_path):
    found = proposed(tmp_path)
    shown = {name: role.partition(":")[0] for name, role in found.columns.items()}
    assert shown == {
        "id": "id",
        "customer": "group",
        "age": "feature",
        "city": "feature",
        "name": "left out",
        "note": "text",
        "picture": "pictures",
        "born": "left out",
        "size": "feature",
        "label": "label",
    }
    document = yaml.safe_load(found.text)
    assert document["data"] == {
        "train": str(tmp_path / "t.parquet"),
        "id": "id",
        "group": "customer",
        "label": "label",
        "features": ["age", "city", "size"],
        "fills": {"size": 0},
    }
    assert document["features"]["image"] == {"picture": "efficientnet-lite0"}
    assert "note" in document["features"]["text"]
    assert document["task"]["name"] == "lda"
    assert "personal" in found.text
    assert "Alice" not in found.text
    assert Settings.parse(document) == found.settings


def test_what_is_written_trains_and_forgets(tmp_path):
    found = proposed(tmp_path, without("picture"))
    (tmp_path / "c.yaml").write_text(found.text)
    with hybridmu.connect(tmp_path / "c.yaml", executor="local") as system:
        assert system.train()["voters"] == 1
        assert system.forget(groups=[3], wait=True)["state"] in {"SERVED", "PURGED"}


def test_columns_that_are_named_are_not_guessed(tmp_path):
    found = proposed(tmp_path, id="customer", group="city", target="age")
    assert [found.columns[name] for name in ("customer", "city", "age")] == ["id", "group", "target"]
    assert found.columns["id"] == "feature"
    assert yaml.safe_load(found.text)["task"]["name"] == "ridge"


@pytest.mark.parametrize(
    ("columns", "named", "match"),
    [
        (without("id", "name", "note", "picture"), {}, "tells the rows apart"),
        (without("label", "city"), {}, "what is to be learned"),
        (COLUMNS, {"label": "nothing"}, "no column 'nothing' for --label"),
        ({"id": pa.array([], pa.int64()), "label": pa.array([], pa.string())}, {}, "no rows"),
    ],
)
def test_what_can_t_be_guessed_is_asked_for(tmp_path, columns, named, match):
    with pytest.raises(DataError, match=match):
        proposed(tmp_path, columns, **named)


@settings(max_examples=40)
@given(
    names=st.lists(
        st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12),
        min_size=2,
        max_size=4,
        unique=True,
    )
)
def test_any_name_of_a_column_is_written_so_that_it_is_read_again(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("t")
    kinds = [range(ROWS), ["a", "b"] * (ROWS // 2), [0.5] * ROWS, [None, 1] * (ROWS // 2)]
    columns = dict(zip(names, kinds, strict=False))
    if any("\0" in name for name in names):  # which no configuration holds
        with pytest.raises(HybridMUError):
            proposed(folder, columns, id=names[0], label=names[1])
        return
    found = proposed(folder, columns, id=names[0], label=names[1])
    data = yaml.safe_load(found.text)["data"]
    assert (data["id"], data["label"]) == (names[0], names[1])
    assert Settings.parse(yaml.safe_load(found.text)) == found.settings
