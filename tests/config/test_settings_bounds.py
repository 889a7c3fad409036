"""Every field of the configuration has bounds, and every oddity of YAML an error of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hybridmu import config
from hybridmu.config import Settings
from hybridmu.core.tasks.task_making import make_task
from hybridmu.errors import ConfigError

MINIMAL = {"data": {"train": "t.parquet"}, "storage_url": "/nowhere/storage"}


INSIDE: list[Any] = []
INSIDE += [INSIDE, INSIDE]
LOOP: dict[str, Any] = {}
LOOP["a"] = LOOP


def fields(model: type[BaseModel], where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, (*where, name))
        else:
            yield (*where, name), field


FIELDS = dict(fields(Settings))


def kinds(annotation: Any) -> set[Any]:
    return {annotation}.union(*map(kinds, get_args(annotation)))


def parse(where: tuple[str, ...], value: Any) -> Settings:
    raw: dict[str, Any] = {"data": dict(MINIMAL["data"]), "storage_url": MINIMAL["storage_url"]}
    inner = raw
    for part in where[:-1]:
        inner = inner.setdefault(part, {})
    inner[where[-1]] = value
    return Settings.parse(raw)


def refused(where: tuple[str, ...], value: Any) -> bool:
    try:
        parse(where, value)
    except ConfigError as error:
        return where[-1] in str(error)
    return False


@pytest.mark.parametrize("where", FIELDS, ids=".".join)
def test_no_field_takes_what_has_no_sense(where):
    for absurd in (math.nan, math.inf, -math.inf, 1e308, 10**30, " ", "\ud800", "a\0", [], object(), {"": []}):
        assert refused(where, absurd) or (absurd == [] and FIELDS[where].default == ()), absurd
    assert refused(where, "") or not FIELDS[where].default


# Fields in which a number below 0 has a sense.
SIGNED = {("sisa", "seed")}
NUMBERS = [where for where, field in FIELDS.items() if field.annotation in {int, float, int | None, float | None}]


@pytest.mark.parametrize("where", NUMBERS, ids=".".join)
def test_every_number_has_bounds(where):
    assert refused(where, 2**63)
    assert refused(where, -1) or where in SIGNED
    for wrong in (True, "many", [1], "12:30:00", b"\xff"):
        assert refused(where, wrong)
    if int in kinds(FIELDS[where].annotation):
        assert refused(where, 1.5)


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("data.hash_buckets", {"s": 0}, "data.hash_buckets.s: Input should be greater than or equal to 1"),
        ("data.hash_buckets", {"s": -1}, "data.hash_buckets.s"),
        ("data.hash_buckets", {"s": 2**21}, "data.hash_buckets.s: Input should be less than or equal to 1048576"),
        ("data.hash_buckets", {"s": True}, "expected a number, got True"),
        ("data.scale", {"x": math.nan}, "finite"),
        ("data.scale", {"x": False}, "expected a number"),
        ("data.fills", {"x": math.inf}, "finite"),
        ("data.classes", [True, False], "yes, no"),
        ("data.classes", [1, 1], "twice"),
        ("data.features", ["a", "b", "a"], "twice"),
        ("data.categories", {"s": []}, "empty"),
        ("data.categories", {"s": ["a", "a"]}, "twice"),
        ("policy.calibration_shares", [0.1, 0.1], "twice"),
        ("policy.calibration_shares", [0.0], "greater than 0"),
        ("policy.calibration_shares", [1.5], "less than or equal to 1"),
        ("policy.approximate", [], "empty"),
        ("sisa.shards", 10**9, "sisa.shards: Input should be less than or equal to 100000"),
        ("optimizer.lr", "0.1x", "optimizer.lr"),
        ("task", {"name": "mlp", "hidden": [math.nan]}, "hidden: expected a finite number"),
        ("task", {"name": "mlp", "hidden": object()}, "hidden: expected numbers"),
        ("task", {"name": "mlp", "hidden": INSIDE}, "hidden: lists and mappings contain themselves"),
        ("task", {"name": "mlp", "o": {"p": INSIDE}}, "o: lists and mappings contain themselves"),
        ("task", {"name": "mlp", "o": [{7: None}]}, "o: a mapping has a key of type int, expected text"),
        ("data.fills", {7: 1}, "data.fills: a mapping has a key of type"),
        ("cluster.labels", LOOP, "cluster.labels: lists and mappings contain themselves"),
        ("sisa.seed", "1_0", "sisa.seed: expected a number, got the text '1_0'"),
        ("sisa.seed", "010", "sisa.seed: expected a number, got the text '010'"),
        ("sisa.shards", " 00", "sisa.shards: expected a number"),
        ("optimizer.lr", "0_1.0", "optimizer.lr: expected a number"),
        ("data.hash_buckets", {"s": "1_0"}, "data.hash_buckets: expected a number"),
        ("policy.calibration_shares", ["0.0_1"], "policy.calibration_shares: expected a number"),
    ],
)
def test_the_message_names_field_and_bound(where, value, says):
    with pytest.raises(ConfigError) as error:
        parse(tuple(where.split(".")), value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"hidden": ["8"]}),
        ("mlp", {"hidden": [-4]}),
        ("mlp", {"hidden": [0]}),
        ("mlp", {"hidden": 8}),
        ("mlp", {"hidden": "8"}),
        ("mlp", {"hidden": [True]}),
        ("mlp", {"hidden": [8.0]}),
        ("mlp", {"hidden": [10**9]}),
        ("cnn", {"width": 12}),
        ("cnn", {"width": 0}),
        ("cnn", {"stages": 0}),
        ("cnn", {"stages": 99}),
        ("cnn", {"shape": [28, 28]}),
        ("cnn", {"shape": [1, -28, 28]}),
        ("cnn", {"shape": "1x28x28"}),
    ],
)
def test_the_built_in_tasks_have_bounds(name, options):
    with pytest.raises(ConfigError, match=rf"task\.{next(iter(options))}"):
        make_task(name, options)


def load(tmp_path, text: str | bytes) -> Settings:
    file = tmp_path / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(file)


VALID = "data: {train: t.parquet}\nstorage_url: storage\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("policy: {quarantine: true}\n" + VALID + "policy: {calibrate: false}\n", "names policy twice (lines 1 and 4)"),
        (VALID + "sisa:\n  seed: 1\n  shards: 2\n  seed: 3\n", "names sisa.seed twice (lines 4 and 6)"),
        (VALID + "sisa: {seed: 1, 'seed': 1}\n", "names sisa.seed twice (lines 3 and 3)"),
        (VALID + "task: {name: x:Y, deep: [{a: 1, a: 2}]}\n", "names task.deep.0.a twice"),
        (VALID + "sisa: {seed: 010}\n", "base 8"),
        (VALID + "sisa: {seed: !!int '010'}\n", "base 8"),
        (VALID + 'sisa: {seed: !!int "1:30"}\n', "base 60"),
        (VALID + "sisa: {seed: '1_0'}\n", "got the text '1_0'"),
        (VALID + "policy: {deadline_seconds: 12:30:00}\n", "base 60"),
        (VALID + "sisa: {seed: no}\n", "sisa.seed: expected a number, got False"),
        ("data: {train: t, label: yes}\nstorage_url: s\n", "data.label"),
        ("data: {train: t, scale: {on: 2}}\nstorage_url: s\n", "key that YAML does not read as text"),
        ("data: {train: t, scale: {7: 2}}\nstorage_url: s\n", "key that YAML does not read as text"),
        ("data: {train: 2026-01-01}\nstorage_url: s\n", "data.train"),
        (VALID + "sisa: {seed: 2026-13-45}\n", "can't read"),
        (VALID + "sisa: {seed: " + "9" * 5000 + "}\n", "c.yaml"),
        (VALID + "optimizer: {lr: .nan}\n", "optimizer.lr: expected a finite number"),
        (VALID + "optimizer: {lr: -.inf}\n", "optimizer.lr: expected a finite number"),
        (VALID + "sisa:\n\tseed: 1\n", "is not YAML"),
        (VALID + "---\nsisa: {seed: 1}\n", "is not YAML"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n", "not a mapping"),
        ("just text\n", "not a mapping"),
        (VALID + "policy:\n", "policy"),
        (VALID + "task: {name: !!python/name:os.system x}\n", "is not YAML"),
        (VALID + "task: &t {name: x:Y, inner: *t}\n", "contains itself"),
        ("[" * 5000, "c.yaml"),
        ("data: {train: Jos\xe9.parquet}\n".encode("latin-1"), "is not YAML"),
        (VALID + "sisa: {shrads: 3}\n", "the nearest known one is 'shards'"),
    ],
)
def test_oddities_of_yaml_are_errors_that_name_the_file(tmp_path, text, says):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert says in str(error.value)
    assert "c.yaml" in str(error.value)


def test_text_that_is_one_number_to_everybody_stays(tmp_path):
    found = load(tmp_path, VALID + "sisa: {seed: '-7'}\noptimizer: {lr: '0.1'}\ntask: {name: x:Y, o: '010'}\n")
    assert (found.sisa.seed, found.optimizer.lr, found.task.options) == (-7, 0.1, {"o": "010"})
    text = "data: {train: t, classes: ['01', '1_0'], fills: {a: '010', '1_0': 1}}\nstorage_url: s\n"
    assert load(tmp_path, text).data.classes == ("01", "1_0")


def test_many_aliases_of_aliases_are_refused(tmp_path):
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="too many values"):
        load(tmp_path, VALID + "task:\n  name: x:Y\n  " + "\n  ".join(levels) + "\n")


def test_what_yaml_is_good_for_stays(tmp_path):
    text = """
    data: {train: t.parquet, classes: ["yes", "no", 3]}
    storage_url: storage
    optimizer: &o {lr: 1e-3, weight_decay: 1_0}
    task: {<<: *o, name: "x:Y", lr: 2}
    sisa: {seed: -5}
    """
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        found = load(tmp_path, text.encode(encoding))
        assert (found.optimizer.lr, found.optimizer.weight_decay, found.sisa.seed) == (0.001, 10, -5)
        assert found.task.options == {"lr": 2, "weight_decay": 10}
        assert found.data.classes == ("yes", "no", 3)
