"""Derived columns: features of texts, as tables and rows get them, and what is refused."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.config import Settings
from hybridmu.core.features import text_values
from hybridmu.core.features.derived import Derivation
from hybridmu.core.features.encoded_values import Derived, encoded
from hybridmu.core.features.value_encoders import TextEncoder, make_encoder
from hybridmu.core.kernel.table_encoder import Column
from hybridmu.errors import ConfigError, DataError


class Codes(TextEncoder):
    """The code points of the first two letters."""

    width = 2

    def encode(self, texts):
        return np.array([[ord(letter) % 127 for letter in text[:2].ljust(2)] for text in texts], np.int8)


class Odd(TextEncoder):
    width = 1

    def __init__(self, found):
        self._found = found

    def encode(self, texts):
        if isinstance(self._found, BaseException):
            raise self._found
        return self._found


def derivation(encoder=None, fill=None):
    return Derivation([Derived("review", "review:Codes", text_values, lambda: encoder or Codes(), fill)])


ASKED = (Column("age", "number", 1), Column("review", "text", 1))


def test_a_table_gets_columns_of_features():
    table = pa.table({"review": ["ab", "c", ""], "age": [1, 2, 3]})
    made = derivation().extended(table)
    assert made.column_names == ["review", "age", "review:Codes"]
    assert made["review:Codes"].type == pa.list_(pa.int8(), 2)
    assert made["review:Codes"].to_pylist() == [[97, 98], [99, 32], [32, 32]]
    assert len(derivation().extended(table.slice(0, 0))) == 0


@pytest.mark.parametrize("type_", [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.string_view()])
def test_texts_of_any_arrow_type_are_texts(type_):
    column = pa.chunked_array([pa.array(["ab"]), pa.array(["c"])]).cast(type_)
    assert derivation().extended(pa.table({"review": column}))["review:Codes"].to_pylist() == [[97, 98], [99, 32]]


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"])), max_size=6))
def test_rows_have_the_features_that_tables_have(texts):
    table = derivation().extended(pa.table({"review": pa.array(texts, pa.string())}))
    rows = derivation().rows([{"review": text, "age": 1} for text in texts], ASKED)
    assert [row["review:Codes"].tolist() for row in rows] == table["review:Codes"].to_pylist()


def test_a_null_is_refused_or_what_it_is_declared_to_be():
    table = pa.table({"review": pa.array(["ab", None], pa.string())})
    with pytest.raises(DataError, match=r"^row 1: .*null and no fill") as caught:
        derivation().extended(table, None, lambda at: f"row {at}")
    assert "data.fills" in caught.value.expected
    with pytest.raises(DataError, match="null"):
        derivation().extended(table)
    with pytest.raises(DataError, match="null"):
        derivation().rows([{"age": 1, "review": None}], ASKED)
    for empty in (table, pa.table({"review": pa.nulls(2)})):
        assert derivation(fill="").extended(empty)["review:Codes"].to_pylist()[1] == [32, 32]
    assert derivation(fill="").rows([{"age": 1, "review": None}], ASKED)[0]["review:Codes"].tolist() == [32, 32]


@pytest.mark.parametrize("value", [7, b"ab", ["ab"], float("nan"), "\ud800"])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(DataError, match="review"):
        derivation().rows([{"age": 1, "review": value}], ASKED)


def test_a_column_that_holds_no_text_is_refused():
    with pytest.raises(DataError, match="text"):
        derivation().extended(pa.table({"review": [1, 2]}))


@pytest.mark.parametrize("lacking", ["age", "review"])
def test_the_error_of_a_missing_column_names_what_a_row_has(lacking):
    row = {"age": 1, "review": "ab"}
    del row[lacking]
    with pytest.raises(DataError, match=f"{lacking}.*is missing") as caught:
        derivation().rows([row], ASKED)
    assert caught.value.expected == "age, review"


def test_what_is_no_row_is_left_for_others_to_refuse():
    assert derivation().rows(["x"], ASKED) == ["x"]


@pytest.mark.parametrize(
    "found",
    [
        np.zeros((1, 2), np.int8),
        np.zeros((1, 1), np.float32),
        np.array([[-128]], np.int8),
        [[1]],
        None,
    ],
)
def test_an_encoder_that_makes_something_else_is_at_fault(found):
    with pytest.raises(DataError, match="something else") as caught:
        derivation(Odd(found)).extended(pa.table({"review": ["ab"]}))
    assert "these rows are not at fault" in caught.value.remedy


@pytest.mark.parametrize("raised", [ValueError("secret words"), SystemExit("secret words")])
def test_what_an_encoder_raises_quotes_no_value(raised):
    with pytest.raises(DataError, match="can't be encoded") as caught:
        derivation(Odd(raised)).extended(pa.table({"review": ["ab"]}))
    assert "secret" not in str(caught.value)


def test_a_row_is_asked_for_the_texts_and_not_for_their_features():
    schema = (Column("age", "number", 1), Column("review:Codes", "list", 2, scale=1 / 127))
    assert [column.name for column in derivation().asked(schema)] == ["age", "review"]
    assert Derivation().asked(schema) == schema


def test_a_configuration_names_columns_and_encoders():
    text = {"review": ["ngrams", f"{__name__}:Codes"], "title": {"name": "ngrams", "width": 8}}
    features = Settings.parse({"data": {"train": "x"}, "features": {"text": text}, "storage_url": "/x/y"}).features
    found = Derivation.of(features, {"*": "none", "title": ""})
    assert found.names == ("review:ngrams", "review:Codes", "title:ngrams")
    assert found.sources == ("review", "title")
    assert [column.encoder.width for column in found] == [2048, 2, 8]
    assert [column.fill for column in found] == ["none", "none", ""]
    with pytest.raises(ConfigError, match="fills"):
        Derivation.of(features, {"title": 3})


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("none", {}, "unknown text encoder"),
        ("no.such:Thing", {}, "can't be imported"),
        ("builtins:int", {}, "no text encoder"),
        ("ngrams", {"widht": 3}, "does not take these options"),
        ("ngrams", {"width": 0}, "width"),
        ("ngrams", {"width": True}, "width"),
        ("ngrams", {"longest": 11}, "longest"),
        ("ngrams", {"longest": 2}, "shortest"),
        (f"{__name__}:Odd", {}, "options"),
    ],
)
def test_encoders_that_can_t_be_had_say_why(name, options, match):
    with pytest.raises(ConfigError, match=match):
        make_encoder("text", name, options)


class Lazy(Codes):
    """Loads what it needs when it is first asked."""

    def __init__(self):
        self.calls = 0

    def encode(self, texts):
        self.calls += 1
        return super().encode(texts)


def test_what_an_encoder_remembers_of_its_calls_makes_no_other_encoder_of_it():
    one, other = (Derived("review", "review:Lazy", text_values, Lazy) for _ in range(2))
    encoded(one, ["ab"])
    assert one.digest == other.digest


@pytest.mark.parametrize("files", [["no-such-file"], 3, [None]])
def test_files_that_can_t_be_read_are_told(files):
    class Filed(Codes):
        @property
        def files(self):
            return files

    column = Derived("review", "review:Filed", text_values, Filed)
    with pytest.raises(ConfigError, match="review:Filed"):
        encoded(column, ["ab"])


@pytest.mark.parametrize("width", [0, -1, True, 1.5, 2**31, None])
def test_a_width_out_of_range_is_refused(width, monkeypatch):
    monkeypatch.setattr(Codes, "width", width)
    with pytest.raises(ConfigError, match="width"):
        make_encoder("text", f"{__name__}:Codes", {})


def test_rows_of_a_table_are_named_and_those_of_a_question_are_not():
    class Picky(Codes):
        def encode(self, texts):
            if "bad" in texts:
                raise ValueError
            return super().encode(texts)

    table = pa.table({"review": ["ab"] * 3 + ["bad", "c"]})
    with pytest.raises(DataError, match=r"^row 3: column 'review' can't be encoded") as caught:
        derivation(Picky()).extended(table, None, lambda at: f"row {at}")
    assert "leave the row out" in caught.value.remedy
    with pytest.raises(DataError, match=r"^column 'review' can't be encoded"):
        derivation(Picky()).extended(table)


def test_a_digest_covers_options_and_code():
    digests = [make_encoder("text", "ngrams", options).digest for options in ({}, {"width": 2048}, {"width": 8})]
    assert digests[0] == digests[1] != digests[2]
    assert Codes().digest == Codes().digest != Odd(None).digest
