"""Source tables with derived columns."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hybridmu.core.features import image_values, text_values
from hybridmu.core.features.derived import Derivation
from hybridmu.core.features.encoded_values import Derived
from hybridmu.core.features.value_encoders import ImageEncoder, TextEncoder
from hybridmu.errors import DataError
from hybridmu.store.dataset.derived_table import with_derived
from hybridmu.store.dataset.source_table import open_table


class Length(TextEncoder):
    width = 1

    def __init__(self):
        self.calls = 0

    def encode(self, texts):
        self.calls += len(texts)
        return np.array([[len(text)] for text in texts], np.int8)


class Red(ImageEncoder):
    width = 1

    def encode(self, pictures):
        return np.array([[picture[0, 0, 0] // 2] for picture in pictures], np.int8)


def derivation(encoder, source="note"):
    values = text_values if isinstance(encoder, TextEncoder) else image_values
    return Derivation([Derived(source, f"{source}:own", values, lambda: encoder)])


def opened(folder, table, encoder, source="note"):
    pq.write_table(table, folder / "t.parquet", row_group_size=2)
    return with_derived(open_table(str(folder / "t.parquet")), derivation(encoder, source))


def png(red):
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), red, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_features_are_made_while_a_table_is_read_and_only_where_they_are_asked_for(tmp_path):
    encoder = Length()
    table = opened(tmp_path, pa.table({"id": [1, 2, 3], "note": ["a", "bb", "ccc"]}), encoder)
    assert table.names == ["id", "note", "note:own"]
    assert [row for batch in table.batches(["id"]) for row in batch.to_pylist()] == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert encoder.calls == 0
    found = pa.concat_tables(table.batches(["note:own", "id", "note"]))
    assert found.column_names == ["note:own", "id", "note"]
    assert found["note:own"].to_pylist() == [[1], [2], [3]]
    assert encoder.calls == 3
    assert table.first_value("note:own") is not None


def test_csv_and_folders_of_files_have_them_too(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text("id,note\n1,123\n2,no\n")
    (folder / "b.csv").write_text("id,note\n3,7\n")
    table = with_derived(open_table(str(folder)), derivation(Length()))
    found = pa.concat_tables(table.batches(["id", "note", "note:own"])).to_pydict()
    assert found == {"id": [1, 2, 3], "note": ["123", "no", "7"], "note:own": [[3], [2], [1]]}


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary()])
def test_pictures_are_read_from_bytes_and_kept_in_base64(tmp_path, type_):
    table = opened(tmp_path, pa.table({"id": [1, 2, 3], "note": pa.array([png(10), png(20), png(30)], type_)}), Red())
    found = pa.concat_tables(table.batches(["id", "note", "note:own"]))
    assert found["note:own"].to_pylist() == [[5], [10], [15]]
    assert found.schema.field("note").type == pa.string()


def test_pictures_as_hugging_face_writes_them(tmp_path):
    struct = pa.StructArray.from_arrays([pa.array([png(8)]), pa.array(["a.png"])], ["bytes", "path"])
    table = opened(tmp_path, pa.table({"id": [1], "note": struct}), Red())
    assert pa.concat_tables(table.batches(["note:own"])).to_pydict() == {"note:own": [[4]]}


@pytest.mark.parametrize(
    ("columns", "encoder", "match"),
    [
        ({"id": [1]}, Length(), "missing"),
        ({"note": [1]}, Length(), "no text"),
        ({"note": [1]}, Red(), "no pictures"),
        ({"note": ["a"], "note:own": [1]}, Length(), "rename"),
    ],
)
def test_tables_that_don_t_fit_are_refused(tmp_path, columns, encoder, match):
    with pytest.raises(DataError, match=match):
        opened(tmp_path, pa.table(columns), encoder)


@pytest.mark.parametrize("type_", [pa.list_(pa.uint8()), pa.large_list(pa.uint8()), pa.list_(pa.uint8(), 4)])
def test_lists_of_pixels_of_any_arrow_type_are_pictures(tmp_path, type_):
    table = opened(tmp_path, pa.table({"id": [1, 2], "note": pa.array([[8] * 4, [20] * 4], type_)}), Red())
    found = pa.concat_tables(table.batches(["note", "note:own"]))
    assert found["note:own"].to_pylist() == [[4], [10]]
    assert found.schema.field("note").type == pa.string()


def test_a_column_without_a_value_that_pandas_wrote_as_numbers_has_no_text(tmp_path):
    pq.write_table(pa.table({"id": [1], "note": pa.array([None], pa.float64())}), tmp_path / "t.parquet")
    fill = Derivation([Derived("note", "note:own", text_values, Length, "empty")])
    table = with_derived(open_table(str(tmp_path / "t.parquet")), fill)
    assert pa.concat_tables(table.batches(["note:own"])).to_pydict() == {"note:own": [[5]]}


def test_a_row_that_can_t_be_encoded_is_named_by_its_place_in_the_table(tmp_path):
    table = opened(tmp_path, pa.table({"id": range(5), "note": [png(1)] * 4 + [b"broken"]}), Red())
    with pytest.raises(DataError, match=r"row 5 of .*t\.parquet: .*can't be read"):
        list(table.batches(["note:own"]))


def test_without_derived_columns_a_table_is_what_it_was(tmp_path):
    pq.write_table(pa.table({"id": [1]}), tmp_path / "t.parquet")
    table = open_table(str(tmp_path / "t.parquet"))
    assert with_derived(table, Derivation()) is table
