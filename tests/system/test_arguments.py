from __future__ import annotations

import inspect
import math
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

import hybridmu
from hybridmu import System
from hybridmu.errors import ConfigError, HybridMUError, RequestError
from hybridmu.planning.arrivals import Arrival
from hybridmu.store.ledger.tables import metadata
from hybridmu.system.argument_values import keys_of
from hybridmu.system.arguments import check_of
from tests.scenes.small_system import Scene, scene

VERBS = {name: verb for name, verb in inspect.getmembers(System, inspect.isfunction) if not name.startswith("_")} | {
    "System": System.__init__
}
ARGUMENTS = [
    (name, parameter)
    for name, verb in VERBS.items()
    for parameter in inspect.signature(verb).parameters.values()
    if parameter.name != "self"
]


def checks(name: str) -> dict[str, Any]:
    return {key: check_of(hint) for key, hint in get_type_hints(VERBS[name], include_extras=True).items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("arguments")) as made:
        made.system.close()
        yield made


def contents(system: System) -> dict[str, list[Any]]:
    """Return every row of the ledger."""
    with system.database.engine.connect() as connection:
        return {
            table.name: sorted(map(str, connection.execute(sa.select(table)).all()))
            for table in metadata.tables.values()
            if table.name != "leases"
        }


def refused(call: Callable[..., Any], *arguments: Any, **named: Any) -> HybridMUError:
    with pytest.raises(HybridMUError) as error:
        call(*arguments, **named)
    return error.value


@pytest.mark.parametrize(("name", "parameter"), ARGUMENTS, ids=lambda x: x if isinstance(x, str) else x.name)
def test_every_argument_of_every_verb_has_a_check(name, parameter):
    assert checks(name)[parameter.name] is not None


VALID = {
    "settings": hybridmu.Settings.parse({"data": {"train": "t"}, "storage_url": "/nowhere"}),
    "executor": "local",
    "ids": [1],
    "reason": "a reason",
    "request_id": "r-0",
    "ingest_id": "i-0",
    "key_id": "0" * 16,
    "source": "nothing.parquet",
    "number": 1,
    "rows": [{"x0": 1.0}],
    "requests_per_day": 1.0,
    "deadline_seconds": 60.0,
    "arrivals": [],
    "workers": 1,
    "at": 0.0,
    "names": "other",
}
# No argument of any verb takes one of these.
JUNK = [object(), b"17", 1j, {1: 2}, [object()], math.nan, "\ud800", "x\0", -1, "a" * 5000]
JUNK += [10**5000, -(10**5000), np.timedelta64(5, "D"), np.timedelta64("NaT"), [np.timedelta64(5)], "a" * 100_000]


@pytest.mark.parametrize(("name", "parameter"), ARGUMENTS, ids=lambda x: x if isinstance(x, str) else x.name)
@pytest.mark.sampled
def test_a_wrong_argument_is_refused_before_anything_happens(trained, name, parameter):
    before = contents(trained.system)
    verb = System if name == "System" else getattr(trained.system, name)
    required = {
        each.name: VALID[each.name]
        for each in inspect.signature(VERBS[name]).parameters.values()
        if each.name in VALID and each.default is inspect.Parameter.empty and each.kind is not each.VAR_POSITIONAL
    }
    for junk in JUNK:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            refused(verb, "other", junk, **required)
        else:
            assert len(str(refused(verb, **{**required, parameter.name: junk}))) < 1500
    assert contents(trained.system) == before


class Colour(StrEnum):
    RED = "red"


class Old(str, Enum):  # noqa: UP042 - it prints as Old.RED
    RED = "red"


class Level(IntEnum):
    LOW = 3


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ([1, "1"], (1, "1")),
        ((2,), (2,)),
        ({3}, (3,)),
        (iter("ab"), ("a", "b")),
        (range(2), (0, 1)),
        ({"a": 1}.keys(), ("a",)),
        (np.arange(2, dtype=np.uint8), (0, 1)),
        (np.array(["x", "yz"]), ("x", "yz")),
        (np.array(["x", 5], dtype=object), ("x", 5)),
        ([np.int32(4), np.str_("s"), Colour.RED, Old.RED, Level.LOW], (4, "s", "red", "red", 3)),
        (pa.array([5, 6]), (5, 6)),
        (pa.chunked_array([["p"], ["q"]]), ("p", "q")),
        (pa.array(["p", "q"]).dictionary_encode(), ("p", "q")),
        ([2**64 - 1, -(2**63)], (2**64 - 1, -(2**63))),
        ([], ()),
    ],
)
def test_any_collection_of_keys_is_taken(given_, kept):
    found = keys_of("ids", given_)
    assert found == kept
    assert {type(each) for each in found} <= {int, str}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("17", "ids is not a list"),
        (b"17", "ids is not a list"),
        (17, "ids is not a list"),
        (None, "ids is not a list"),
        ({17: "x"}, "ids is not a list"),
        (OrderedDict(a=1), "ids is not a list"),
        (np.int64(17), "ids is not a list"),
        ((1 // zero for zero in [0]), "can't be iterated over"),
        (np.array(17), "dimension"),
        (np.array([[1, 2]]), "dimension"),
        (np.array([1.0, 2.0]), "float64"),
        (np.array(["2026-01-01"], dtype="M8[ns]"), "datetime64"),
        (np.array([b"x"]), "|S1"),
        (np.array([True]), "bool"),
        (pa.table({"id": [1]}), "ids is not a list"),
        (pa.array([1.5]), "entry 0"),
        (pa.array([1, None]), "entry 1"),
        ([1, True], "entry 1"),
        ([1, np.bool_(True)], "entry 1"),
        ([3.0], "entry 0"),
        ([math.nan], "entry 0"),
        ([None], "entry 0"),
        ([[1, 2]], "entry 0"),
        ([(1, 2)], "entry 0"),
        ([b"x"], "entry 0"),
        ([Decimal(1)], "entry 0"),
        ([date(2026, 1, 1)], "entry 0"),
        ([uuid.UUID(int=1)], "entry 0"),
        (["a\ud800"], "surrogate"),
        ([2**64], "64 bits"),
        ([10**5000], "64 bits"),
        ([np.timedelta64(5, "D")], "entry 0"),
        (np.array([1, np.timedelta64(5)], dtype=object), "entry 1"),
    ],
)
def test_what_is_no_list_of_keys_is_refused_and_not_shown(wrong, says):
    with pytest.raises(RequestError) as error:
        keys_of("ids", wrong)
    assert says in str(error.value)


def test_pandas_columns_are_lists_of_keys():
    pandas = pytest.importorskip("pandas")
    assert keys_of("ids", pandas.Series([1, 2])) == (1, 2)
    assert keys_of("ids", pandas.Series(["a", "b"], dtype="category")) == ("a", "b")
    assert keys_of("ids", pandas.Index(["a"])) == ("a",)
    for wrong in (pandas.DataFrame({"id": [1]}), pandas.Series([1, None]), pandas.Series([pandas.Timestamp(0)])):
        refused(keys_of, "ids", wrong)


def test_a_string_is_no_list_of_ids(trained):
    for name, value in (("ids", "17"), ("groups", "ab"), ("ids", 17)):
        for verb in (trained.system.plan, trained.system.forget):
            assert isinstance(refused(verb, **{name: value}), RequestError)
        refused(trained.system.readmit, reason="x", **{name: value})
    assert trained.system.requests() == []


def test_an_unknown_strategy_or_executor_is_refused_at_once(trained):
    for strategy in ("fast", "", None, 3):
        error = refused(trained.system.forget, ids=[1], strategy=strategy)
        assert isinstance(error, ConfigError)
    assert "unknown strategy 'fast'" in str(refused(trained.system.plan, ids=[1], strategy="fast"))
    assert "unknown strategy 'fast'" in str(refused(trained.system.audit, strategy="fast"))
    assert "unknown executor 'loca'" in str(refused(hybridmu.connect, trained.config, executor="loca"))
    assert trained.system.requests() == []


@pytest.mark.parametrize("wrong", [7, None, b"c.yaml", ["c.yaml"], "no\0file.yaml", object()])
def test_what_is_no_configuration_is_refused(wrong):
    assert isinstance(refused(hybridmu.connect, wrong, executor="local"), ConfigError)
    assert isinstance(refused(hybridmu.load, wrong), ConfigError)


def test_misspelt_arguments_name_the_nearest(trained):
    error = refused(trained.system.forget, id=[1])
    assert "write ids" in str(error)
    refused(trained.system.forget, [1])
    refused(trained.system.hold)


@pytest.mark.parametrize("name", [*VERBS, "connect"])
def test_arguments_that_a_verb_does_not_take_are_refused_under_its_name(trained, name):
    verb = {"System": System, "connect": hybridmu.connect}.get(name) or getattr(trained.system, name)
    error = refused(verb, **{"no such argument": 1})
    assert (type(error), error.what) == (RequestError, f"{name} does not take these arguments")


def test_long_values_are_not_shown_whole(trained):
    for call in (trained.system.plan, trained.system.forget):
        error = refused(call, ids=["x" * 60_000, "y" * 60_000])
        assert error.unknown == ("x" * 60_000, "y" * 60_000)
        assert len(str(error)) < 1000
    for call in (trained.system.ingest, trained.system.correct):
        assert len(str(refused(call, "a/" * 50_000))) < 1000
    error = HybridMUError("x" * 100_000, got="y" * 99 + "z")
    assert len(str(error)) < 2300
    assert "98,000 characters" in error.what
    assert error.got == "y" * 99 + "z"


def test_a_copy_that_is_not_there_is_named(trained):
    trained.system.close()
    for copy in ("/no/such/copy", "/etc/hosts/x", "/tmp", "~no-such-user-here/x", "x" * 300):
        assert "the copy does not exist" in str(refused(trained.system.mend, "lake/manifest.json", copy))


class Odd(str):
    def __eq__(self, _: object) -> bool:
        raise RuntimeError

    __hash__ = None


class Unordered(int):
    def __le__(self, _: object) -> bool:
        raise RuntimeError


def test_what_a_value_says_of_itself_decides_nothing(trained):
    assert trained.system.has_numbers(Odd("id"))
    assert trained.system.plan(ids=[trained.rows[0][0]], strategy=Odd("retrain")).shards
    assert trained.system.page(limit=Unordered(3))["requests"] == []

    class Broken(Mapping):
        def __getitem__(self, key: object) -> object:
            raise RuntimeError(key)

        def __iter__(self) -> Iterator[str]:
            return iter(["a"])

        def __len__(self) -> int:
            return 1

    assert "can't be read" in str(refused(trained.system.predict, [Broken()]))
    assert "can't be read" in str(refused(trained.system.upgrade, Broken()))


@pytest.mark.parametrize(
    "wrong",
    [
        Arrival(0.0, {(99, 1): 1}),
        Arrival(0.0, {(0, 99): 1}),
        Arrival(0.0, {(0, 0): 1}),
        Arrival(0.0, {(-1, 1): 1}),
        Arrival(0.0, {(0, 1): -3}),
        Arrival(0.0, {(0, 1): 1.5}),  # type: ignore[dict-item]
        Arrival(0.0, {0: 1}),  # type: ignore[dict-item]
        Arrival(0.0, None),  # type: ignore[arg-type]
        Arrival("x", {}),  # type: ignore[arg-type]
        Arrival(math.nan, {(0, 1): 1}),
        Arrival(math.inf, {}),
        Arrival(-1.0, {}),
    ],
    ids=repr,
)
def test_what_is_no_request_is_not_simulated(trained, wrong):
    good = trained.system.arrival(0.0, [trained.rows[0][0]])
    assert "arrivals[1]" in str(refused(trained.system.simulate, [good, wrong], 2))
    assert len(trained.system.simulate([good, Arrival(np.float32(1), {(0, np.int64(1)): 10**6})], 2).requests) == 2


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("caller", "x" * 81, "at most 80"),
        ("caller", "a\x1b[31m", "control characters"),
        ("caller", "a\nb", "control characters"),
        ("caller", "a\u2028b", "control characters"),
        ("caller", None, "not a text"),
        ("key", "x" * 201, "1 to 200"),
        ("key", "", "1 to 200"),
        ("key", "a\0", "control characters"),
        ("key", 7, "not a text"),
        ("deadline_seconds", "60", "a number"),
        ("deadline_seconds", True, "a number"),
        ("deadline_seconds", math.nan, "out of range"),
        ("deadline_seconds", math.inf, "out of range"),
        ("deadline_seconds", 0, "out of range"),
        ("deadline_seconds", 10**400, "out of range"),
        ("ignore_unknown", "no", "True or False"),
        ("wait", 1, "True or False"),
        ("watch", "x", "is not callable"),
    ],
)
def test_other_arguments_have_their_bounds(trained, argument, value, says):
    assert says in str(refused(trained.system.forget, ids=[1], **{argument: value}))
    assert trained.system.requests() == []


def test_what_is_right_still_passes(trained):
    ids = trained.rows[0][:2]
    done = trained.system.forget(ids=np.array(ids), caller="a" * 80, key="k" * 200, deadline_seconds=np.float32(60))
    assert (done["keys"], done["caller"]) == (2, "a" * 80)
    again = trained.system.forget(ids=ids[::-1], caller="a" * 80, key="k" * 200, deadline_seconds=60)
    assert again["request_id"] == done["request_id"]
    assert [each["request_id"] for each in trained.system.requests(["RECEIVED"])] == [done["request_id"]]
    trained.system.cancel(done["request_id"], "a" * 80)
