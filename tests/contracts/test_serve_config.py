"""serve/config.yaml says only what Serve understands, and never which model version is served."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def raw() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PROJECT / "serve/config.yaml").read_text())
    return found


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation such as `list[Model] | None` names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def unknown_keys(model: type[BaseModel], value: dict[str, Any], where: str = "") -> list[str]:
    """Return the paths of keys that a model, or one inside it, does not declare; Serve ignores them in silence."""
    found = []
    for key, item in value.items():
        if key not in model.model_fields:
            found.append(where + key)
            continue
        inner = list(models_in(model.model_fields[key].annotation))
        for number, part in enumerate(item if isinstance(item, list) else [item]):
            if inner and isinstance(part, dict):
                step = f"{where}{key}[{number}]." if isinstance(item, list) else f"{where}{key}."
                found += unknown_keys(inner[0], part, step)
    return found


def schema() -> type[BaseModel]:
    from ray.serve.schema import ServeDeploySchema  # late: a second of imports

    return typing.cast("type[BaseModel]", ServeDeploySchema)


def test_serve_knows_every_key(raw: dict[str, Any]) -> None:
    assert unknown_keys(schema(), raw) == []
    schema().model_validate(raw)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ((), "portt"),
        (("http_options",), "http_options.portt"),
        (("applications", 0), "applications[0].portt"),
        (("applications", 0, "deployments", 0), "applications[0].deployments[0].portt"),
    ],
    ids=lambda part: str(part),
)
def test_an_unknown_key_is_found_though_serve_takes_it(
    raw: dict[str, Any], where: tuple[Any, ...], expected: str
) -> None:
    changed = copy.deepcopy(raw)
    section: Any = changed
    for step in where:
        section = section[step]
    section["portt"] = 1
    assert unknown_keys(schema(), changed) == [expected]
    schema().model_validate(changed)  # the reason for this test


def test_it_names_no_model_version_and_stays_on_loopback(raw: dict[str, Any]) -> None:
    keys = [key for key in walk(raw) if "version" in key.lower() or key == "user_config"]
    assert keys == [], "an old file, applied again, would bring forgotten weights back"
    assert raw["http_options"]["host"] == "127.0.0.1"
    assert raw["applications"][0]["args"].keys() <= {"config", "replicas"}


def walk(value: Any) -> Iterator[str]:
    """Yield every key at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def test_names_agree_with_the_code(raw: dict[str, Any]) -> None:
    from hybridmu.cluster.announcements import APPLICATION
    from hybridmu.cluster.serve_deployment import EnsembleDeployment

    (application,) = raw["applications"]
    assert application["name"] == APPLICATION
    assert application["import_path"] == "serve.app:build"
    assert [deployment["name"] for deployment in application["deployments"]] == [EnsembleDeployment.name]  # type: ignore[attr-defined]
    assert (PROJECT / application["args"]["config"]).exists()
