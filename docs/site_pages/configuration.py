"""Reference of the configuration, made of its JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hybridmu.config.schema import settings_schema
from site_pages.repository import pages_linked
from site_pages.schema_text import bounds_of, default_of, named, table, type_of

SCHEMA_FILE = "hybridmu.schema.json"
_HEAD = ("key", "type and bounds", "default", "meaning")
_START = f"""# Configuration

Every key of the YAML file. An unknown key is an error that names the nearest one. [Your data, your
model](../own-data.md) shows a configuration at work; [what is chosen](../quality.md#with-no-option-set) where keys are
left out. Environment variables: `HYBRIDMU_STORAGE_URL` and `HYBRIDMU_DATABASE_URL` come before the file,
`HYBRIDMU_CONFIG` names it, `HYBRIDMU_DATA` is the folder of built-in datasets.

Editors complete these keys with the [JSON schema](../{SCHEMA_FILE}), which `hybridmu config schema` prints. The first
line of a configuration names it:

```yaml
# yaml-language-server: $schema={SCHEMA_FILE}
data: {{train: train.parquet, group: user}}
storage_url: system
```
"""


def schema_file() -> str:
    """Return the JSON schema as the text of a file."""
    return json.dumps(settings_schema(), indent=2, ensure_ascii=False) + "\n"


def page() -> str:
    """Return the page in Markdown: single keys first, then a table per section."""
    schema = settings_schema()
    single = {key: value for key, value in schema["properties"].items() if not named(value)}
    parts = [_START, "## Keys outside of sections\n", _table("", schema | {"properties": single}, schema)]
    for key, value in schema["properties"].items():
        if name := named(value):
            section = schema["$defs"][name]
            parts.append(f"## {key}\n\n{section['description']}\n\n{_table(f'{key}.', section, schema)}")
            if section.get("additionalProperties") is True:
                parts.append("Any other key is an argument of the constructor.")
    for key, value in single.items():
        for name in filter(None, map(named, value.get("anyOf", ()))):  # a section, or null
            section = schema["$defs"][name]
            parts.append(f"## {key}\n\n{section['description']}\n\n{_table(f'{key}.', section, schema)}")
        inside = value.get("additionalProperties")
        if isinstance(inside, Mapping) and (name := named(inside)):
            section = schema["$defs"][name]
            parts.append(f"## {key}.NAME\n\n{section['description']}\n\n{_table(f'{key}.NAME.', section, schema)}")
    return pages_linked("\n\n".join(parts)) + "\n"


def _table(prefix: str, section: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    links = {"EncoderSettings": "encoder: a name, or a mapping with `name` and options"}
    required = set(section.get("required", ()))
    if section.get("title") == schema["title"]:
        required |= {"storage_url"}  # in the file, or in the environment
    rows = [
        (
            f"`{prefix}{key}`",
            "; ".join(filter(None, (type_of(value, links), bounds_of(value)))),
            default_of(value, required=key in required),
            value["description"],
        )
        for key, value in section["properties"].items()
    ]
    return table(_HEAD, rows)
