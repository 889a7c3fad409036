"""Whatever the configuration is, as a mapping or as a file: settings that can be stored again, or one of our errors."""

from __future__ import annotations

import contextlib
import json
from datetime import date
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hybridmu import config
from hybridmu.config import Settings
from hybridmu.errors import ConfigError
from tests.config.test_settings_bounds import FIELDS, MINIMAL
from tests.doors.fuzz import inputs, tried

SECTIONS = st.sampled_from([*Settings.model_fields, "unknown", "", 7, None, "\ud800"])
KEYS = st.sampled_from([where[-1] for where in FIELDS] + ["unknown", "", 7, None, True, "\ud800", "a\0"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3)
VALUES = st.recursive(
    LEAVES
    | st.sampled_from(["/x", "t.parquet", "seed", "env:X", "s3://b/x", "sqlite:///x", date(2026, 1, 1), object()]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
_RAW = st.dictionaries(SECTIONS, VALUES | st.dictionaries(KEYS, VALUES, max_size=4), max_size=5) | VALUES
_TEXT = st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))


def parsed(raw: Any) -> None:
    """Read a mapping, whole or refused."""
    if isinstance(raw, dict) and len(raw) % 2:
        raw = MINIMAL | raw
    with contextlib.suppress(ConfigError):
        found = Settings.parse(raw)
        assert Settings.model_validate(found.model_dump()) == found
        assert Settings.model_validate(found.model_dump(mode="json")) == found
        with contextlib.suppress(ConfigError):
            json.dumps(found.identity(), allow_nan=False)
        with contextlib.suppress(ConfigError):
            _ = found.database, found.keys_folder


@inputs(150)
def test_whatever_the_configuration_is_only_our_errors_come_out(count: int) -> None:
    tried(count, _RAW, parsed)


@inputs(100)
def test_whatever_the_file_is_only_our_errors_come_out(count: int, tmp_path: Path) -> None:
    def loaded(data: bytes) -> None:
        (tmp_path / "fuzz.yaml").write_bytes(data)
        with contextlib.suppress(ConfigError):
            config.load(tmp_path / "fuzz.yaml")

    tried(count, st.binary(max_size=60) | _TEXT, loaded)
