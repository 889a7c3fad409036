"""The JSON schema of the configuration: it knows every key with its meaning, and takes what the settings take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from hybridmu.config import Settings
from hybridmu.config.schema import settings_schema
from hybridmu.config.yaml_document import read_document
from hybridmu.errors import ConfigError
from tests.config.test_settings_bounds import FIELDS, MINIMAL, parse

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("examples/*.yaml"))
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SCHEMA = settings_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
CANDIDATES: list[Any] = [None, True, 0, 1, 0.5, 64, 2000, "a", "b:C", "env:A", "file:/a/b", "sqlite:///a", "127.0.0.1"]
CANDIDATES += ["auto", "sgd", "linear", "float32", "private", "mean", "ddp", "idle", "text", "info"]
CANDIDATES += [["a", "b"], [1, 2], [0.5], ["127.0.0.1"], ["dpus"], ["json"]]
CANDIDATES += [{"a": 1}, {"a": 0.5}, {"a": "b"}, {"a": True}, {"a": ["b", "c"]}, {"a": [{"name": "ngrams"}]}]
CANDIDATES += [{"desk": {"url": "https://desk.example/hook", "secret": "env:DESK_SECRET"}}]


def key(where: tuple[str, ...]) -> dict[str, Any]:
    """Return the schema of one key."""
    found: dict[str, Any] = SCHEMA
    for part in where:
        found = found["properties"][part]
        found = SCHEMA["$defs"][found["$ref"].rpartition("/")[2]] if "$ref" in found else found
    return found


def nested(where: tuple[str, ...], value: Any) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(json.dumps(MINIMAL))
    inner = raw
    for part in where[:-1]:
        inner = inner.setdefault(part, {})
    inner[where[-1]] = value
    return raw


def configurations() -> Iterator[tuple[str, Any]]:
    """Yield every configuration on the pages: of a shell's here-document, or a block of YAML."""
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"<<'YAML'\n(.*?)^YAML$", text, re.DOTALL | re.MULTILINE)
        blocks += re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        for number, block in enumerate(blocks):
            document = yaml.safe_load(block)
            if isinstance(document, dict) and {*document} <= {*Settings.model_fields}:
                yield f"{page.name}-{number}", {**MINIMAL, **document}


CONFIGURATIONS = dict(configurations())


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_takes_every_example(path: Path) -> None:
    assert list(VALIDATOR.iter_errors(read_document(path))) == []


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_it_takes_every_configuration_on_the_pages(name: str) -> None:
    assert len(CONFIGURATIONS) >= 8
    assert list(VALIDATOR.iter_errors(CONFIGURATIONS[name])) == []


def test_it_takes_all_defaults() -> None:
    whole = json.loads(Settings.parse(MINIMAL).model_dump_json())
    assert whole["policy"]["calibration_shares"] == [0.01, 0.1]
    empty = {section: [name for name, value in keys.items() if value in ([], {})] for section, keys in whole.items()
             if isinstance(keys, dict)}  # fmt: skip
    for section, names in empty.items():
        for name in names:
            del whole[section][name]
    assert list(VALIDATOR.iter_errors(whole)) == []


@pytest.mark.parametrize("where", FIELDS, ids=".".join)
def test_it_knows_every_key_and_says_what_it_means(where: tuple[str, ...]) -> None:
    assert key(where)["description"].endswith(".")
    assert "Attributes" not in key(where)["description"]
    assert key(where[:-1])["description"]


@pytest.mark.parametrize("where", FIELDS, ids=".".join)
def test_it_takes_what_the_settings_take(where: tuple[str, ...]) -> None:
    taken = 0
    for value in CANDIDATES:
        try:
            parse(where, value)
        except ConfigError:
            continue
        taken += 1
        # 0 and 1 for false and true are the reader's kindness.
        if not (FIELDS[where].annotation is bool and not isinstance(value, bool)):
            assert list(VALIDATOR.iter_errors(nested(where, value))) == [], value
    assert taken or where in {("learner", "name"), ("partitioner", "name"), ("features", "name")}


@pytest.mark.parametrize("where", FIELDS, ids=".".join)
def test_it_refuses_unknown_keys(where: tuple[str, ...]) -> None:
    raw = nested((*where[:-1], f"{where[-1]}s"), 1)
    options = where[0] == "task"
    assert bool(list(VALIDATOR.iter_errors(raw))) != options


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (("sisa", "shards"), 0),
        (("sisa", "shards"), "many"),
        (("optimizer", "momentum"), 1),
        (("policy", "strategy"), "forget-it"),
        (("learner", "name"), "slized_sgd"),
        (("logs", "format"), "xml"),
        (("features", "text"), {"review": []}),
        (("features", "text"), {"review": [{"width": 4}]}),
        (("data", "scale"), {"x": "much"}),
    ],
)
def test_it_refuses_a_wrong_value(where: tuple[str, ...], wrong: Any) -> None:
    with pytest.raises(ConfigError):
        parse(where, wrong)
    (error,) = VALIDATOR.iter_errors(nested(where, wrong))
    assert list(error.absolute_path)[: len(where)] == list(where)


@pytest.mark.parametrize("encoders", ["ngrams", ["wordllama", "ngrams"], {"name": "ngrams", "width": 4096}])
def test_an_encoder_may_stand_by_itself(encoders: Any) -> None:
    raw = nested(("features", "text"), {"review": encoders})
    assert Settings.parse(raw).features.text["review"][-1].name == "ngrams"
    assert list(VALIDATOR.iter_errors(raw)) == []
