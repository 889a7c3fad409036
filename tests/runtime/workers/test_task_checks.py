"""A task is tried on the system's own rows, here and in a fresh process, before anything is stored or retrained."""

from __future__ import annotations

import importlib
import os
import sys
from itertools import count

import pyarrow.parquet as pq
import pytest
import torch

import hybridmu
from hybridmu.errors import ConfigError, StrategyUnavailableError
from hybridmu.types import RequestState
from tests.support import make_table, settings_dict, table

_NAMES = count()
_HEAD = """import os, random, time
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from hybridmu.task import CrossEntropyTask
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """`nets(body)` writes a module with a class Net that only this process finds; returns the task's name."""
    folder = tmp_path / "src"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    written = []

    def write(body: str, name: str = "") -> str:
        name = name or f"checked_{next(_NAMES)}"
        written.append(name)
        (folder / f"{name}.py").write_text(f"{_HEAD}{body}")
        importlib.invalidate_caches()
        return f"{name}:Net"

    yield write
    for name in written:
        sys.modules.pop(name, None)


def of(model: str) -> str:
    return f"class Net(CrossEntropyTask):\n    def model(self, f, c):\n        {model}\n"


def connect(folder, task, **sections):
    config = settings_dict(folder, sisa={"shards": 2, "slices": 2, "epochs": 2}, **sections)
    config["task"] = {"name": task}
    if not (folder / "train.parquet").exists():
        make_table(folder / "train.parquet", 60)
    return hybridmu.connect(config, executor="local")


@pytest.mark.slow
def test_a_task_that_can_not_be_trained_leaves_nothing_in_storage(tmp_path, nets):
    with connect(tmp_path, nets(of("return nn.Linear(f, 1)"))) as system:
        with pytest.raises(ConfigError, match=r"returns \[2, 1\] for 2 row\(s\)\n  expected: \[2, 3\]"):
            system.train()
        assert not (tmp_path / "storage" / "lake").exists()
        assert system.registry.served() is None
    with connect(tmp_path, nets(of("return nn.Linear(f, c)"))) as system:
        assert system.train()["version"] == 1, "a corrected configuration takes over"


OUTSIDE = {
    "numpy": "m = nn.Linear(f, c); m.weight.data = torch.tensor(np.random.randn(c, f), dtype=torch.float32); return m",
    "random": "m = nn.Linear(f, c); m.weight.data *= random.random(); return m",
    "urandom": "m = nn.Linear(f, c); m.weight.data *= os.urandom(1)[0] + 1; return m",
    "time": "m = nn.Linear(f, c); m.weight.data *= time.time_ns() % 1000 + 1; return m",
    "hash": "m = nn.Linear(f, c); m.weight.data *= hash('gain') % 1000 + 1; return m",
    "process": "m = nn.Linear(f, c); m.weight.data *= os.getpid() + 1; return m",
}


@pytest.mark.parametrize("source", OUTSIDE)
@pytest.mark.sampled
def test_randomness_from_outside_of_torch_is_found_before_training(tmp_path, nets, source):
    with connect(tmp_path, nets(of(OUTSIDE[source]))) as system:
        with pytest.raises(ConfigError, match=r"with the same seed[\s\S]*torch's generator alone"):
            system.train()
        assert not (tmp_path / "storage" / "lake").exists()


@pytest.mark.slow
def test_a_task_that_ends_other_processes_is_told(tmp_path, nets):
    here = os.getpid()
    body = f"if os.getpid() != {here}: os._exit(3)\n" + of("return nn.Linear(f, c)")
    with (
        connect(tmp_path, nets(body)) as system,
        pytest.raises(ConfigError, match=r"ends a process that uses it\n  got: exit code 3"),
    ):
        system.train()


@pytest.mark.slow
def test_a_file_that_was_edited_after_it_was_imported_is_found(tmp_path, nets):
    name = nets(of("return nn.Sequential(nn.Linear(f, 4), nn.ReLU(), nn.Linear(4, c))"))
    importlib.import_module(name.partition(":")[0])
    nets(of("return nn.Sequential(nn.Linear(f, 4), nn.Tanh(), nn.Linear(4, c))"), name.partition(":")[0])
    with connect(tmp_path, name) as system, pytest.raises(ConfigError, match="after an edit of its file"):
        system.train()


@pytest.mark.slow
def test_what_only_this_process_can_import_is_handed_on(tmp_path, nets):
    """By sys.path alone: the oracle and the evidence of a purge find the task too."""
    assert str(tmp_path / "src") not in os.environ.get("PYTHONPATH", "")
    with connect(tmp_path, nets(of("return nn.Linear(f, c)")), policy={"verify_share": 1.0}) as system:
        system.train()
        request = system.forget(ids=[3], wait=True)["request_id"]
        system.run(until_idle=True)
        assert system.ledger.request(request).state == RequestState.PURGED


@pytest.mark.slow
def test_an_oracle_that_fails_says_so_in_a_sentence(tmp_path, nets):
    name = nets(of("return nn.Linear(f, c)"))
    with connect(tmp_path, name) as system:
        system.train()
        (tmp_path / "src" / f"{name.partition(':')[0]}.py").write_text("raise RuntimeError('no licence')\n")
        with pytest.raises(hybridmu.HybridMUError) as error:
            system.verify()
    assert "RuntimeError: no licence" in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.slow
def test_an_edited_task_is_tried_when_a_coordinator_starts(tmp_path, nets):
    name = nets(of("return nn.Linear(f, c)"))
    module = name.partition(":")[0]
    with connect(tmp_path, name) as system:
        system.train()
    del sys.modules[module]
    nets(of("return nn.Linear(f, 7)"), module)
    with connect(tmp_path, name) as system:
        request = system.forget(ids=[3])["request_id"]
        with pytest.raises(ConfigError, match=r"returns \[2, 7\] for 2 row"):
            system.run(until_idle=True)
        assert system.ledger.request(request).state == RequestState.RECEIVED
    del sys.modules[module]
    nets(of("return nn.Sequential(nn.Linear(f, 5), nn.Tanh(), nn.Linear(5, c))"), module)
    with connect(tmp_path, name) as system:
        system.run(until_idle=True)
        assert system.ledger.request(request).state == RequestState.PURGED


def test_the_check_leaves_threads_and_generators_of_a_notebook_alone(tmp_path):
    from hybridmu.runtime.workers.task_checks import TaskChecks

    with connect(tmp_path, "linear") as system:
        system.train()
        torch.set_num_threads(2)
        torch.set_deterministic_debug_mode("default")
        state = torch.random.get_rng_state()
        TaskChecks(system.site).of_lake({}, begins=True)
        assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (2, 0)
        assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.slow
def test_a_model_whose_buffer_shares_memory_with_itself_is_trained_forgotten_and_verified(tmp_path, nets):
    body = """
class Scaled(nn.Module):
    def __init__(self, f, c):
        super().__init__()
        self.h = nn.Linear(f, c)
        self.register_buffer("scale", torch.ones(1).expand(f))

    def forward(self, x):
        return self.h(x * self.scale)

"""
    with connect(tmp_path, nets(body + of("return Scaled(f, c)"))) as system:
        system.train()
        system.forget(ids=[3], wait=True)
        assert system.verify()["exact_claims_hold"]
        assert system.predict([{f"x{i}": 1.0 for i in range(4)}])["predictions"]


# ---------------------------------------------------------------------- losses that are no numbers for some rows


@pytest.mark.slow
def test_a_loss_that_is_no_number_for_some_rows_ends_in_retrains(tmp_path, nets):
    pq.write_table(table(200, classes=2), tmp_path / "train.parquet")
    body = of("return nn.Linear(f, c)")
    body += "    def loss(self, logits, y): return F.cross_entropy(logits, y, weight=torch.tensor([0.0, 1.0]))\n"
    policy = {"calibrate": True, "calibration_shares": [0.02], "light_seconds": 0.0, "time_ratio": 1e-9}
    with connect(tmp_path, nets(body), policy=policy) as system:
        system.train(calibrate=True)
        known = system.measurements.curves()
        assert all(gap == gap for curve in known for gap in curve.gaps)
        labels = table(200, classes=2)["label"].to_pylist()
        zeros = [n for n, label in enumerate(labels) if label == 0]
        for row, strategy in zip(zeros, ("dpus", "dpus-optimised", "dpus-newton", "auto"), strict=False):
            report = system.forget(ids=[row], strategy=strategy, wait=True)
            assert report["state"] == RequestState.SERVED
            assert report["shards"][0]["strategy"] == "retrain", strategy
    for _ in range(2):
        with connect(tmp_path, system.settings.task.name) as again:
            again.run(until_idle=True)
            assert {request["state"] for request in again.requests()} == {"PURGED"}


@pytest.mark.slow
def test_a_diverged_training_fails_its_request_in_the_users_words(tmp_path, nets):
    body = of("return nn.Linear(f, c)")
    body += (
        "    def loss(self, logits, y):\n"
        "        if os.path.exists(os.environ['STOP']): raise ArithmeticError('the exchange is closed')\n"
        "        return F.cross_entropy(logits, y)\n"
    )
    stop = tmp_path / "stop"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STOP", str(stop))
        name = nets(body)
        with connect(tmp_path, name) as system:
            system.train()
            request = system.forget(ids=[3])["request_id"]
            system.session.coordination.acquire()
            stop.touch()
            system.run(until_idle=True)
            failed = system.ledger.request(request)
            assert failed.state == RequestState.FAILED
            place = f"({name.partition(':')[0]}.py:11)"
            assert failed.reason.endswith(f"ArithmeticError: the exchange is closed {place}")
            stop.unlink()
            assert system.forget(ids=[3], wait=True)["request_id"] == request
            system.run(until_idle=True)
            assert system.ledger.request(request).state == RequestState.PURGED


@pytest.mark.slow
def test_an_update_that_the_model_does_not_allow_is_refused_before_it_is_committed(tmp_path, nets):
    with connect(tmp_path, nets(of("return nn.Linear(f, c).requires_grad_(False)"))) as system:
        system.train()
        with pytest.raises(StrategyUnavailableError, match="no parameter that is trained"):
            system.forget(ids=[3], strategy="dpus")
        assert system.ledger.requests() == []
        (shard,) = system.plan(ids=[3]).shards
        assert (shard.strategy, shard.reasons) == (
            "retrain",
            ("no update is available: the model has no parameter that is trained",),
        )
