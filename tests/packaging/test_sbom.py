"""Bill of materials: `make sbom` names what an installation consists of, with versions and licences."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from tests.packaging import clean

MAKEFILE = (clean.ROOT / "Makefile").read_text()


@pytest.mark.slow
def test_it_names_what_is_installed_and_nothing_else(tmp_path):
    (tmp_path / "dist").mkdir()
    source = clean.sources(tmp_path / "project")
    (wheel,) = clean.build(source, tmp_path / "wheel", "--wheel")
    binaries = clean.environment(tmp_path / "env", ["hybridmu"])
    clean.install(binaries, wheel)

    recipe = MAKEFILE.partition("\nsbom:")[2].partition("\n\n")[0].replace("\\\n", " ")
    (line,) = re.findall(r"\$\(BIN\)/cyclonedx-py .*", recipe)
    filled = line.replace("$(BIN)", str(Path(sys.executable).parent)).replace("build/installed/bin", str(binaries))
    out = tmp_path / "dist" / "hybridmu.cdx.json"
    clean.run(*shlex.split(filled.replace("dist/hybridmu.cdx.json", str(out))), cwd=clean.ROOT)

    found = json.loads(out.read_text())
    assert found["bomFormat"] == "CycloneDX"
    assert found["metadata"]["component"]["name"] == "hybridmu"
    parts = {each["name"].lower().replace("_", "-"): each for each in found["components"]}
    assert {"ray", "torch", "pyarrow", "cryptography", "sqlalchemy", "typer"} <= set(parts)
    assert not {"pytest", "ruff", "mypy", "fastapi", "cyclonedx-bom"} & set(parts)
    pins = dict(line.split("==") for line in (clean.ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {name.lower().replace("_", "-"): version.partition(";")[0].strip() for name, version in pins.items()}
    for name, part in parts.items():
        if name in pinned:
            assert part["version"].partition("+")[0] == pinned[name], name
    licensed = [name for name, part in parts.items() if part.get("licenses")]
    assert len(licensed) > 0.8 * len(parts)


def test_it_is_of_everything_that_users_can_install():
    (extras,) = re.findall(r"installed/bin/pip install .*'\.\[([\w,]+)\]'", MAKEFILE)
    declared = tomllib.loads((clean.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) == set(declared) - {"browser", "dev", "docs", "sbom"}
