"""First configuration of a table: what each column seems to be, and a YAML file that says so and why."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from hybridmu.config import Settings
from hybridmu.core.features import image_values
from hybridmu.core.kernel.column_types import SUPPORTED, kind_of
from hybridmu.errors import DataError
from hybridmu.store.dataset.source_table import SourceTable, open_table

_ROWS = 20_000  # that are looked at
_IDS = ("id", "key", "uuid", "guid", "rowid", "index")
_PEOPLE = (
    *("person", "people", "user", "customer", "client", "patient", "member", "owner", "subject", "employee", "student"),
    *("household", "account", "author", "reviewer", "participant", "respondent", "email"),
)
_LABELS = (
    "label",
    "class",
    "target",
    "y",
    "outcome",
    "category",
    "department",
    "diagnosis",
    "churn",
    "churned",
    "income",
)
_NUMBERS = ("target", "y", "price", "value", "amount", "score", "rating")
_MOST_CLASSES = 100
_TEXT_LETTERS = 40  # mean length from which on a text is read as one
_NEARLY_UNIQUE = 0.9


@dataclass
class ColumnLook:
    """What the first rows say of a column.

    Attributes:
        name: Its name.
        kind: As of `kind_of`; `image` of pictures, None of what can't be a feature.
        type: Its Arrow type, as text.
        rows: Rows that were looked at.
        nulls: Rows without a value.
        values: Distinct values, or None where there are too many to be classes.
        distinct: How many distinct values there are.
        letters: Mean length of its texts.
    """

    name: str
    kind: str | None
    type: str
    rows: int = 0
    nulls: int = 0
    distinct: int = 0
    values: Sequence[Any] | None = None
    letters: float = 0.0

    @property
    def is_unique(self) -> bool:
        """Return whether every row has a value of its own."""
        return self.rows > 0 and not self.nulls and self.distinct == self.rows


@dataclass
class FirstConfig:
    """A configuration that a table suggests.

    Attributes:
        text: YAML with a comment for every guess.
        columns: Column → what it is, in the order of the table.
        settings: The same, parsed.
    """

    text: str
    columns: dict[str, str]
    settings: Settings = field(repr=False)


def first_config(
    url: str, storage_url: str, *, id: str | None, group: str | None, label: str | None, target: str | None
) -> FirstConfig:
    """Return a configuration for a table of which its first rows and its schema are looked at.

    Args:
        url: File or folder.
        storage_url: Where the system will be.
        id: Column that tells rows apart; None: guessed, as are the following.
        group: Column of the people.
        label: Column of classes.
        target: Column of numbers to learn.

    Raises:
        DataError: The table can't be read, a named column is not there, or none can be an id or an outcome.
        ConfigError: A column's name can't stand in a configuration.
    """
    looks = {look.name: look for look in _looks(open_table(url))}
    for role, name in (("id", id), ("group", group), ("label", label), ("target", target)):
        if name is not None and name not in looks:
            raise DataError(f"the table has no column {name!r} for --{role}", expected=", ".join(looks))
    outcome = label or target
    found_id = id or _guessed_id(looks, {group, outcome})
    if outcome is None:
        role, outcome = _guessed_outcome(looks, {found_id, group})
        label, target = (outcome, None) if role == "label" else (None, outcome)
    if group is None:
        group = _guessed_group(looks, {found_id, outcome})
    roles = {found_id: "id", outcome: "label" if label else "target"} | ({group: "group"} if group else {})
    columns = {name: roles.get(name) or _role(look) for name, look in looks.items()}
    document, comments = _document(url, storage_url, looks, columns)
    return FirstConfig(_written(document, comments), columns, Settings.parse(document))


def _looks(table: SourceTable) -> Iterator[ColumnLook]:
    """Yield what is seen of every column."""  # noqa: DOC501
    readable = [name for name in table.names if name not in table.columns.broken]
    parts, rows = [], 0
    for batch in table.batches(readable):
        parts.append(batch)
        if (rows := rows + len(batch)) >= _ROWS:
            break
    if not rows:
        raise DataError("the table has no rows", got=table.url, remedy="name another table")
    some = pa.concat_tables(parts).slice(0, _ROWS)
    for name in table.names:
        if name not in readable:
            yield ColumnLook(name, None, "types that differ between files")
            continue
        yield _look(name, some.column(name))


def _look(name: str, column: pa.ChunkedArray) -> ColumnLook:
    kind: str | None = kind_of(column.type)
    if kind is None and _is_picture(name, column):
        kind = image_values.KIND
    found = ColumnLook(name, kind, str(column.type), len(column), column.null_count)
    if kind in {"text", "integer", "bool", "float"}:
        values = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        distinct = pc.unique(values.drop_null())
        found.distinct = len(distinct)
        found.values = distinct.to_pylist() if len(distinct) <= _MOST_CLASSES else None
        if kind == "text" and len(distinct):
            found.letters = pc.mean(pc.utf8_length(values.drop_null().cast(pa.large_string()))).as_py()
    return found


def _is_picture(name: str, column: pa.ChunkedArray) -> bool:
    try:
        image_values.check_type(name, column.type)
        some = next((cell for cell in image_values.cells(column.slice(0, 50)) if cell is not None), None)
        return some is not None and bool(image_values.of_cell(name, some).size)
    except DataError:
        return False


def _words(name: str) -> set[str]:
    """Return the words of a column's name.

    Example:
        >>> sorted(_words("customerId")), sorted(_words("clothing_ID"))
        (['customer', 'id'], ['clothing', 'id'])
    """
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)}


def _guessed_id(looks: Mapping[str, ColumnLook], taken: set[str | None]) -> str:
    fitting = [
        look
        for look in looks.values()
        if look.name not in taken
        and look.kind in {"integer", "text"}
        and look.is_unique
        and look.letters < _TEXT_LETTERS
    ]
    named = [look.name for look in fitting if look.name.lower() in _IDS] + [
        look.name for look in fitting if _words(look.name) & {*_IDS}
    ]
    if found := next(iter([*named, *(look.name for look in fitting)]), None):
        return found
    raise DataError(
        "no column tells the rows apart, so that nobody could name one to be forgotten",
        expected="a column of integers or short texts, each of which stands once",
        got=", ".join(looks),
        remedy="add a number per row, or name the column: --id COLUMN",
    )


def _guessed_outcome(looks: Mapping[str, ColumnLook], taken: set[str | None]) -> tuple[str, str]:
    free = [look for look in looks.values() if look.name not in taken and not look.nulls]
    classes = [
        look for look in free if look.kind in {"integer", "text", "bool"} and look.values and len(look.values) > 1
    ]
    numbers = [look for look in free if look.kind in {"integer", "float"} and look.values is None]
    for names, fitting, role in ((_LABELS, classes, "label"), (_NUMBERS, numbers, "target")):
        for name in names:
            if found := next((look.name for look in fitting if name in _words(look.name)), None):
                return role, found
    if classes and classes[-1].name == list(looks)[-1]:
        return "label", classes[-1].name
    raise DataError(
        "no column is plainly what is to be learned",
        expected="a column of classes, or of numbers, without nulls",
        got=", ".join(looks),
        remedy="name it: --label COLUMN for classes, --target COLUMN for numbers",
    )


def _guessed_group(looks: Mapping[str, ColumnLook], taken: set[str | None]) -> str | None:
    for look in looks.values():
        repeated = 0 < look.distinct < look.rows - look.nulls
        if look.name not in taken and look.kind in {"integer", "text"} and repeated and _words(look.name) & {*_PEOPLE}:
            return look.name
    return None


def _role(look: ColumnLook) -> str:
    """Return what a column is that has no other part: a feature of some kind, or why it is none."""
    if look.kind == image_values.KIND:
        return "pictures"
    if look.kind not in SUPPORTED or "feature" not in SUPPORTED[look.kind].roles:  # type: ignore[index]
        return f"left out: {look.type} can't be a feature"
    if look.kind == "null" or look.nulls == look.rows:
        return "left out: it has no value"
    if look.kind != "text":
        return "feature"
    if look.letters >= _TEXT_LETTERS:
        return "text"
    if look.distinct >= _NEARLY_UNIQUE * (look.rows - look.nulls) and look.rows > 20:
        return "left out: nearly every row has another text, such as a name: personal, and nothing to learn from"
    return "feature"


def _document(
    url: str, storage_url: str, looks: Mapping[str, ColumnLook], columns: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the configuration, and section or section.key → comment."""
    by_role: dict[str, list[str]] = {}
    for name, role in columns.items():
        by_role.setdefault(role.partition(":")[0], []).append(name)
    data: dict[str, Any] = {"train": url}
    comments = {"data.train": "a tenth is held out of it, to measure on"}
    for role in ("id", "group", "label", "target"):
        if role in by_role:
            data[role] = by_role[role][0]
    comments["data.id"] = "tells rows apart"
    if "group" in data:
        comments["data.group"] = "whose row it is: a person's rows are forgotten together"
    else:
        comments["data.id"] += "; add `group: COLUMN`, whose row it is, and a person's rows are forgotten together"
    outcome = looks[str(data.get("label", data.get("target")))]
    shown = ", ".join(map(str, (outcome.values or [])[:6]))
    comments["data.label"] = f"{len(outcome.values or [])} classes: {shown}" + (", …" if outcome.distinct > 6 else "")
    comments["data.target"] = "a number; --label instead makes classes of it"
    if by_role.get("left out"):
        data["features"] = by_role.get("feature", [])
        comments["data.features"] = "not among them: " + "; ".join(
            f"{name} ({columns[name].partition(': ')[2]})" for name in by_role["left out"]
        )
        if not data["features"]:  # none but texts or pictures
            del data["features"]
            comments.pop("data.features")
    fills: dict[str, Any] = {}
    for name in (*by_role.get("feature", []), *by_role.get("text", [])):
        if looks[name].nulls:
            fills[name] = {"text": "", "bool": False}.get(str(looks[name].kind), 0)
    if fills:
        data["fills"] = fills
        comments["data.fills"] = "stand-ins for nulls, beside a column that says where they are"
    document: dict[str, Any] = {"data": data}
    encoded = _features(by_role)
    if encoded:
        document["features"] = encoded
        comments["features"] = "frozen encoders, docs/text-and-pictures.md"
        document["task"] = {"name": "ridge" if "target" in data else "lda", "penalty": 0.1, "levels": 127}
        comments["task"] = "forgets by subtraction, docs/closed-form.md; mlp is a network"
    document["storage_url"] = storage_url
    comments["storage_url"] = "tables, models and the ledger; keys lie beside it, in a folder of that name with -keys"
    return document, comments


def _features(by_role: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    encoders = ["wordllama", "ngrams"] if importlib.util.find_spec("wordllama") else ["ngrams"]
    found: dict[str, Any] = {}
    if texts := by_role.get("text"):
        found["text"] = dict.fromkeys(texts, encoders)
    if pictures := by_role.get("pictures"):
        found["image"] = dict.fromkeys(pictures, "efficientnet-lite0")
    return found


def _written(document: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Return a configuration as YAML, with comments above its lines."""
    lines = ["# Written by `hybridmu init` from the first rows of the table: check what it took each column for."]
    for section, value in document.items():
        if section == "data":
            lines.append("data:")
            for key, each in value.items():
                lines += _entry(key, each, comments.get(f"data.{key}"), "  ")
        else:
            lines += _entry(section, value, comments.get(section), "")
    return "\n".join(lines) + "\n"


def _entry(key: str, value: Any, comment: str | None, indent: str) -> list[str]:
    """Return a key and its value in one line, below a comment."""
    flow = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=math.inf, default_flow_style=True)
    line = f"{indent}{flow.strip()[1:-1]}"
    # What a column's name brings along ends no comment.
    return [f"{indent}# {' '.join(comment.split())}", line] if comment else [line]
