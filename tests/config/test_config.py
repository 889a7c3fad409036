from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from hybridmu import config
from hybridmu.config import Settings, data_home
from hybridmu.errors import ConfigError
from hybridmu.store.keyring import Keyring
from tests.support import settings_dict

RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
ROOT = Path(__file__).parents[2]
MINIMAL = {"data": {"train": "t.parquet"}, "storage_url": "/tmp/x"}


def refused(raw: object) -> str:
    with pytest.raises(ConfigError) as error:
        Settings.parse(raw)  # type: ignore[arg-type]
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "where", "near"),
    [
        ({"storge_url": "/x"}, "storge_url", "storage_url"),
        ({"sisa": {"shard": 3}}, "sisa.shard", "shards"),
        ({"policy": {"workload_treshold": 0.5}}, "policy.workload_treshold", "workload_threshold"),
        ({"optimizer": {"learning_rate": 0.1}}, "optimizer.learning_rate", None),
        ({"data": {"train": "t", "lable": "y"}}, "data.lable", "label"),
    ],
)
def test_unknown_key_names_the_nearest_known_one(changes, where, near):
    message = refused(MINIMAL | changes)
    assert f"unknown key {where!r}" in message
    if near:
        assert f"the nearest known one is {near!r}" in message


def test_every_wrong_key_is_named_at_once():
    message = refused(MINIMAL | {"sisa": {"shards": 0, "seeed": 1}, "cluster": {"updaters": "two"}})
    assert "sisa.shards" in message
    assert "'sisa.seeed'" in message
    assert "cluster.updaters" in message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sisa": {"slices": 0}}, "sisa.slices: Input should be greater than or equal to 1"),
        ({"sisa": {"epochs": "many"}}, "sisa.epochs"),
        ({"policy": {"strategy": "magic"}}, "policy.strategy: Input should be 'auto', 'retrain', 'rewind', 'dpus'"),
        ({"policy": {"workload_threshold": 1.5}}, "less than or equal to 1"),
        ({"data": {"train": "t", "validation_fraction": 1.0}}, "data.validation_fraction"),
        ({"optimizer": {"name": "adamw", "momentum": 0.9}}, "optimizer.momentum belongs to sgd"),
        ({"data": {}}, "data.train is missing"),
        ({"serving": {"port": 70000}}, "serving.port"),
    ],
)
def test_wrong_values(changes, says):
    assert says in refused(MINIMAL | changes)


def test_missing_section_and_wrong_document():
    assert "storage_url: Field required" in refused({"data": {"train": "t"}})
    assert "not a mapping" in refused(["a"])
    assert "not a mapping" in refused(None)


def test_the_tree_is_frozen_and_the_input_untouched(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDMU_STORAGE_URL", "/elsewhere")
    raw = settings_dict(tmp_path)
    before = json.dumps(raw)
    settings = Settings.parse(raw)
    assert json.dumps(raw) == before
    with pytest.raises(ValidationError, match="frozen"):
        settings.storage_url = "/y"
    with pytest.raises(ValidationError, match="frozen"):
        settings.sisa.shards = 9


def test_ray_calls_its_variable_what_we_expect():
    folder = Path(importlib.util.find_spec("ray").submodule_search_locations[0])
    assert f'= "{RAY_JOB}"' in (folder / "_private/runtime_env/constants.py").read_text()
    supervisor = (folder / "dashboard/modules/job/job_supervisor.py").read_text()
    assert f"{RAY_JOB}: json.dumps(" in supervisor  # what the entrypoint of a job is started with


def test_relative_storage_is_refused_inside_a_ray_job_only(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    raw = MINIMAL | {"storage_url": "runs/a"}
    assert Settings.parse(raw).storage_url == str(tmp_path / "runs/a")
    monkeypatch.setenv(RAY_JOB, "{}")
    message = refused(raw)
    assert "'runs/a' is relative" in message
    assert (Path.home() / "runs/a").as_uri() in message
    for absolute in ("/data/a", "~/a", "file:///data/a", "s3://bucket/a"):
        Settings.parse(raw | {"storage_url": absolute})


def test_home_is_expanded():
    assert Settings.parse(MINIMAL | {"storage_url": "~/runs/a"}).storage_url == str(Path.home() / "runs/a")


def test_environment_replaces_the_two_urls(monkeypatch):
    monkeypatch.setenv("HYBRIDMU_STORAGE_URL", "/from/env")
    monkeypatch.setenv("HYBRIDMU_DATABASE_URL", "postgresql://db/x")
    settings = Settings.parse(MINIMAL)
    assert (settings.storage_url, settings.database) == ("/from/env", "postgresql://db/x")


@pytest.mark.parametrize(
    ("url", "database"),
    [("/a/b", "sqlite:////a/b/ledger.sqlite3"), ("file:///a/b", "sqlite:////a/b/ledger.sqlite3")],
)
def test_local_storage_holds_its_ledger(url, database):
    assert Settings.parse(MINIMAL | {"storage_url": url}).database == database


def test_remote_storage_needs_a_database():
    raw = MINIMAL | {"storage_url": "s3://bucket/x"}
    with pytest.raises(ConfigError, match="set database_url"):
        _ = Settings.parse(raw).database
    assert Settings.parse(raw | {"database_url": "sqlite:////v/l.db"}).database == "sqlite:////v/l.db"


def test_partition_key_sources(monkeypatch, tmp_path):
    def key(source: str, seed: int = 0) -> bytes:
        raw = {"data": {"train": "t", "partition_key": source}, "sisa": {"seed": seed}, "storage_url": "/x"}
        return Settings.parse(raw).partition_key()

    (tmp_path / "secret").write_bytes(b"hunter2")
    monkeypatch.setenv("MY_KEY", "hunter2")
    assert (
        key("env:MY_KEY") == key(f"file:{tmp_path / 'secret'}") == hashlib.blake2b(b"hunter2", digest_size=32).digest()
    )
    assert key("seed") != key("seed", seed=1)
    assert key("env:MY_KEY", seed=1) == key("env:MY_KEY")
    for wrong in ("env:NOT_SET_ANYWHERE", "file:/no/such/file", "file:/etc/hosts/x", f"file:{tmp_path}", "vault:x"):
        with pytest.raises(ConfigError, match="partition_key can't be read"):
            key(wrong)
    monkeypatch.setenv("RAW", "\udcff")  # a byte that is no Unicode
    assert key("env:RAW") == hashlib.blake2b(b"\xff", digest_size=32).digest()


@pytest.mark.parametrize("nothing", ["", " ", "\n", "\t \r\n"])
def test_an_empty_secret_is_none(monkeypatch, tmp_path, nothing):
    (tmp_path / "secret").write_text(nothing)
    (tmp_path / "secret").chmod(0o600)
    monkeypatch.setenv("MY_KEY", nothing)
    for source in (f"file:{tmp_path / 'secret'}", "env:MY_KEY"):
        found = Settings.parse({"data": {"train": "t", "partition_key": source}, "storage_url": "/x"})
        with pytest.raises(ConfigError, match="empty"):
            found.partition_key()
        ring = Keyring(Settings.parse(MINIMAL | {"keys": {"signing": source, "guard": source}}))
        with pytest.raises(ConfigError, match="empty"):
            ring.signing_key()
        with pytest.raises(ConfigError, match="empty"):
            ring.guard_keys()


LONG = ["~no-such-user-here/x", "a" * 300, "a/" * 5000]


@pytest.mark.parametrize("path", LONG, ids=["user", "name", "path"])
def test_a_path_that_no_file_system_takes_is_refused_with_its_key(tmp_path, monkeypatch, path):
    for where, changes in (
        ("storage_url", {"storage_url": path}),
        ("database_url", {"database_url": f"sqlite:///{path}"}),
        ("keys.folder", {"keys": {"folder": path}}),
        ("keys.signing", {"keys": {"signing": f"file:{path}"}}),
        ("keys.guard", {"keys": {"guard": f"file:{path}"}}),
        ("data.train", {"data": {"train": path}}),
        ("data.partition_key", {"data": {"train": "t", "partition_key": f"file:{path}"}}),
    ):
        with pytest.raises(ConfigError, match=re.escape(where)) as refused:
            Settings.parse(MINIMAL | changes)
        assert len(str(refused.value)) < 500
    monkeypatch.setenv("HYBRIDMU_DATA", path)
    with pytest.raises(ConfigError, match="HYBRIDMU_DATA"):
        data_home()
    monkeypatch.setenv("HYBRIDMU_DATA", "")
    assert data_home() == Path.home() / ".cache/hybridmu"


def test_settings_made_without_parse_are_checked_alike():
    with pytest.raises(ConfigError, match="unknown key 'bogus'"):
        Settings(**MINIMAL, bogus=1)
    with pytest.raises(ConfigError, match="not text"):
        Settings.parse({**MINIMAL, 5: 1})
    made = Settings(**MINIMAL)
    assert copy.deepcopy(made) == made == Settings.model_validate_json(made.model_dump_json())


def test_identity_hides_the_key_and_ignores_operations():
    settings = Settings.parse(MINIMAL)
    other = Settings.parse(MINIMAL | {"storage_url": "/y", "policy": {"alpha": 1.0}, "cluster": {"updaters": 3}})
    assert settings.identity() == other.identity()
    assert settings.identity() != Settings.parse(MINIMAL | {"sisa": {"seed": 1}}).identity()
    assert settings.partition_key().hex() not in json.dumps(settings.identity())


@pytest.mark.parametrize(
    ("cluster", "threads", "device"),
    [({}, 1, "cpu"), ({"cpus_per_shard": 0.5}, 1, "cpu"), ({"cpus_per_shard": 3, "gpus_per_shard": 1}, 3, "cuda")],
)
def test_threads_and_device(cluster, threads, device):
    settings = Settings.parse(MINIMAL | {"cluster": cluster})
    assert (settings.threads, settings.device) == (threads, device)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_parse(path):
    settings = config.load(path)
    assert Settings.model_validate(settings.model_dump()) == settings
    assert settings.sisa.shards == yaml.safe_load(path.read_text()).get("sisa", {}).get("shards", 8)


def test_there_are_examples():
    assert len(list((ROOT / "examples").glob("*.yaml"))) >= 2


def test_load_reports_a_missing_or_broken_file(tmp_path):
    with pytest.raises(ConfigError, match="no-such"):
        config.load(tmp_path / "no-such.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: {train: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        config.load(broken)
    broken.write_bytes(b"data: \xff\xfa")  # not UTF-8
    with pytest.raises(ConfigError, match="is not YAML"):
        config.load(broken)


def test_default_paths_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("HYBRIDMU_CONFIG", "mine.yaml")
    monkeypatch.setenv("HYBRIDMU_DATA", "~/somewhere")
    assert (config.default_config(), config.data_home()) == ("mine.yaml", Path.home() / "somewhere")
