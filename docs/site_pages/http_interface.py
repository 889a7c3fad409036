"""Reference of the HTTP interfaces, made of their OpenAPI schemas."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import hybridmu
from site_pages.schema_text import bounds_of, default_of, table, type_of

_START = """# HTTP interfaces

Two services answer over HTTP. `hybridmu api` takes [deletion requests](../api.md); [the served
model](../serving.md) predicts. Both give this schema as `GET /openapi.json`.
"""


def requests_schema() -> dict[str, Any]:
    """Return the OpenAPI schema of `hybridmu api`, of a small system that is trained for it and thrown away."""
    from hybridmu.server.app import make_app  # late: it needs an extra

    with tempfile.TemporaryDirectory() as folder:
        rows = pa.table({"id": range(64), "x": [n / 64 for n in range(64)], "label": [n % 2 for n in range(64)]})
        pq.write_table(rows, Path(folder) / "train.parquet")
        # Made without `parse`, so that no variable of the environment names another storage.
        settings = hybridmu.Settings(
            data={"train": f"{folder}/train.parquet"},
            task={"name": "lda"},
            storage_url=f"{folder}/system",
            database_url=f"sqlite:///{folder}/ledger.sqlite3",
        )
        with hybridmu.connect(settings, executor="local") as system:
            system.train()
            return make_app(system.settings).openapi()


def model_schema() -> dict[str, Any]:
    """Return the OpenAPI schema of the served model."""
    from hybridmu.cluster.serve_deployment import api  # late: it imports Ray Serve

    return api.openapi()


def page() -> str:
    """Return the page in Markdown: a part per interface, below it one per call and one per schema."""
    logging.getLogger("hybridmu").setLevel(logging.ERROR)  # what a training of 64 rows warns of is no news here
    parts = [_START]
    for title, schema in (("Deletion requests", requests_schema()), ("The served model", model_schema())):
        parts += [f"## {title}", schema["info"]["description"], *_calls(schema), *_schemas(schema)]
    return "\n\n".join(parts) + "\n"


def _calls(schema: Mapping[str, Any]) -> Iterator[str]:
    links = _links(schema)
    for path, methods in schema["paths"].items():
        for method, call in methods.items():
            yield f"### `{method.upper()} {path}`"
            yield call["description"]
            if "security" in call:
                yield "Needs a bearer token where the service asks for one."
            if parameters := call.get("parameters"):
                rows = [
                    (f"`{each['name']}`", f"in the {each['in']}", *_value(each["schema"], each["required"], links))
                    for each in parameters
                ]
                yield table(("parameter", "place", "type", "default", "bounds"), rows)
            if body := call.get("requestBody"):
                yield "Body:"
                yield _fields(body["content"]["application/json"]["schema"], links)
            yield table(("status", "meaning", "body"), list(_answers(call["responses"], links)))


def _answers(responses: Mapping[str, Any], links: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for status, answer in responses.items():
        bodies = [
            type_of(content.get("schema", {}), links) if kind == "application/json" else kind
            for kind, content in answer.get("content", {}).items()
        ]
        yield status, answer["description"], ", ".join(bodies)


def _schemas(schema: Mapping[str, Any]) -> Iterator[str]:
    for name, found in schema.get("components", {}).get("schemas", {}).items():
        yield f"### {name}"
        if "description" in found:
            yield found["description"].partition("\n\nAttributes:")[0]
        yield _fields(found, _links(schema)) if "properties" in found else type_of(found, {})


def _fields(schema: Mapping[str, Any], links: Mapping[str, str]) -> str:
    required = schema.get("required", ())
    rows = [
        (f"`{name}`", *_value(value, name in required, links)) for name, value in schema.get("properties", {}).items()
    ]
    return table(("field", "type", "default", "bounds"), rows)


def _value(schema: Mapping[str, Any], required: bool, links: Mapping[str, str]) -> tuple[str, str, str]:
    return type_of(schema, links), default_of(schema, required=required), bounds_of(schema)


def _links(schema: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"[{name}](#{name.lower()})" for name in schema.get("components", {}).get("schemas", {})}
