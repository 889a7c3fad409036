"""`hybridmu exclusions`: from a system that forgot to a clean copy of its table."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from tests.support import make_table, settings_dict


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Files of an operator (m.json, k, pub.pem) who forgot the people p1 and the id 7, and a copy of the table."""
    folder = tmp_path_factory.mktemp("copies")
    made = make_table(folder / "train.parquet", 60, groups=12)
    data = {"train": str(folder / "train.parquet"), "group": "person"}
    config = settings_dict(folder, data=data, sisa={"shards": 2, "slices": 2, "epochs": 1})
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        system.forget(ids=[7], groups=["p1"], strategy="retrain")
        system.run(until_idle=True)
    done = run("make", "-c", folder / "c.yaml", "--output", folder / "m.json")
    assert done.exit_code == 0, done.output
    assert "version 2 is without 2 id(s) and group(s)" in done.stdout
    done = run("key", "-c", folder / "c.yaml")
    assert done.exit_code == 0
    (folder / "k").write_text(done.stdout)
    (folder / "pub.pem").write_bytes((folder / "storage-keys" / "signing-0001.pub.pem").read_bytes())
    pq.write_table(made, folder / "copy.parquet")
    return folder, made


def run(*words):
    return CliRunner().invoke(app, ["exclusions", *map(str, words)])


def sift(world, table, *words, whose=("--public-key", "pub.pem")):
    folder, _ = world
    whose = [folder / one if one.endswith("pem") else one for one in whose]
    return run("filter", folder / table, "--manifest", folder / "m.json", "--key", folder / "k", *whose, *words)


def gone(made):
    return [row for row in made.to_pylist() if row["id"] == 7 or row["person"] == "p1"]


def test_a_copy_is_sifted_and_then_clean(world):
    folder, made = world
    out = len(gone(made))
    assert out > 1
    done = sift(world, "copy.parquet", "--json")
    assert done.exit_code == 1, done.output
    assert json.loads(done.stdout) == {"rows": 60, "excluded": out, "file": None}
    done = sift(world, "copy.parquet", "--output", folder / "clean.parquet")
    assert done.exit_code == 0, done.output
    assert f"{out} of 60 row(s) are excluded, by version 2" in done.stdout
    clean = pq.read_table(folder / "clean.parquet")
    assert clean.schema.equals(made.schema)
    kept = [row for row in made.to_pylist() if row not in gone(made)]
    assert clean.to_pylist() == kept
    assert sift(world, "clean.parquet").exit_code == 0


def test_a_copy_in_csv_with_other_names(world):
    folder, made = world
    pacsv.write_csv(made.rename_columns(["number", "who", *made.column_names[2:]]), folder / "copy.csv")
    done = sift(world, "copy.csv")
    assert done.exit_code == 2
    assert "name it with --id COLUMN" in done.output
    named = ("--id", "number", "--group", "who")
    done = sift(world, "copy.csv", *named, "--output", folder / "clean.csv")
    assert done.exit_code == 0, done.output
    assert f"{len(gone(made))} of 60 row(s)" in done.stdout
    assert pacsv.read_csv(folder / "clean.csv")["number"].to_pylist() == [
        row["id"] for row in made.to_pylist() if row not in gone(made)
    ]


def test_numbers_as_text_are_the_same_ids_and_others_are_none(world):
    folder, _ = world
    pq.write_table(pa.table({"id": ["7", "07", "7.0", None], "person": [None] * 4}), folder / "texts.parquet")
    done = sift(world, "texts.parquet", "--json")
    assert json.loads(done.stdout)["excluded"] == 1
    pq.write_table(pa.table({"id": pa.array([7, 8], pa.uint8()), "person": ["x", "p1"]}), folder / "small.parquet")
    assert json.loads(sift(world, "small.parquet", "--json").stdout)["excluded"] == 2


def test_a_copy_without_the_people_is_not_said_to_be_clean(world):
    folder, made = world
    pq.write_table(made.drop_columns(["person"]), folder / "without.parquet")
    done = sift(world, "without.parquet")
    assert done.exit_code == 2
    assert "no column of groups" in done.output


def test_whose_manifest_it_is_has_to_be_said(world):
    folder, _ = world
    assert sift(world, "copy.parquet", whose=()).exit_code == 2
    assert sift(world, "copy.parquet", whose=("--without-key",)).exit_code == 1
    assert sift(world, "copy.parquet", "--without-key").exit_code == 2
    document = json.loads((folder / "m.json").read_text())
    document["lists"] = []
    (folder / "forged.json").write_text(json.dumps(document))
    done = run("filter", folder / "copy.parquet", "--manifest", folder / "forged.json", "--key", folder / "k",
               "--without-key")  # fmt: skip
    assert done.exit_code == 2
    assert "changed after it was signed" in done.output


def test_nothing_is_written_over_the_copy(world):
    folder, _ = world
    before = (folder / "copy.parquet").read_bytes()
    assert sift(world, "copy.parquet", "--output", folder / "copy.parquet").exit_code == 2
    assert (folder / "copy.parquet").read_bytes() == before


def test_the_manifest_is_printed_and_the_key_is_a_secret(world):
    folder, _ = world
    document = json.loads(run("make", "-c", folder / "c.yaml", "--version", 1).stdout)
    assert (document["version"], document["lists"], document["later"]) == (1, [], 2)
    done = run("key", "-c", folder / "c.yaml", "--json")
    (key,) = json.loads(done.stdout)["keys"]
    assert key["key"] == (folder / "k").read_text().strip()
    assert key["key"] not in (folder / "m.json").read_text()
    assert key["key"] != (folder / "storage-keys" / "guard-0001.hex").read_text().strip()
    assert "can test whether a person" in done.stderr
    assert run("make", "-c", folder / "c.yaml", "--version", 9).exit_code == 2


def test_a_system_that_forgot_nothing_has_no_key_and_an_empty_manifest(tmp_path):
    make_table(tmp_path / "train.parquet", 60)
    config = settings_dict(tmp_path, sisa={"shards": 1, "slices": 1, "epochs": 1})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    with hybridmu.connect(config, executor="local") as system:
        system.train()
    document = json.loads(run("make", "-c", tmp_path / "c.yaml").stdout)
    assert document["lists"] == []
    assert document["columns"]["group"] is None
    done = run("key", "-c", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert "there is no key yet" in done.output
