"""Home of an estimator's system: who keeps the folder, when it goes, and what a pickle holds."""

from __future__ import annotations

import copy
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

import hybridmu
from hybridmu.errors import ConfigError, StateError
from hybridmu.estimator import HybridClassifier
from tests.estimator.scene import rows
from tests.support import HANG_SECONDS

_ELSEWHERE = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    model = pickle.load(file)
print(model.forget(ids=[7])["state"])
"""
_ENDS = """
import numpy as np
from hybridmu.estimator import HybridClassifier
X = np.random.default_rng(0).normal(size=(30, 2))
model = HybridClassifier().fit(X, X[:, 0] > 0)
print(model.system_.settings.storage_url)
if ERROR: raise SystemExit(3)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def folders(temporary: Path) -> list[str]:
    return sorted(path.name for path in temporary.iterdir())


def test_a_folder_of_its_own_is_private_and_goes_with_it(temporary):
    model = rows().fitted(HybridClassifier())
    (name,) = folders(temporary)
    assert stat.S_IMODE((temporary / name).stat().st_mode) == 0o700
    shared = copy.copy(model)
    del model
    assert shared.forget(ids=[7])["state"] == "PURGED"
    del shared
    assert folders(temporary) == []


def test_another_fit_takes_the_place_of_the_first(temporary):
    model = rows().fitted(HybridClassifier())
    (first,) = folders(temporary)
    rows(count=60).fitted(model)
    (second,) = folders(temporary)
    assert first != second


def test_a_fit_that_fails_leaves_nothing_and_the_estimator_as_it_was(temporary):
    all_ = rows()
    model = all_.fitted(HybridClassifier())
    before, there = model.predict_proba(all_.X), folders(temporary)
    with pytest.raises(ConfigError, match="penalty"):
        model.set_params(penalty=-1.0).fit(all_.X[:, :2], all_.y == "low")
    assert folders(temporary) == there
    assert (model.n_features_in_, len(model.classes_)) == (3, 3)
    assert np.array_equal(model.predict_proba(all_.X), before)
    with pytest.raises(ConfigError, match="penalty"):
        HybridClassifier(penalty=-1.0).fit(all_.X, all_.y)
    assert folders(temporary) == there


def test_a_forked_process_takes_nothing_along(temporary):
    model = rows().fitted(HybridClassifier())
    child = os.fork()
    if not child:
        del model
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(folders(temporary)) == 1


@pytest.mark.parametrize("error", [False, True])
def test_the_end_of_the_process_is_its_end_too(error, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _ENDS.replace("ERROR", str(error))],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == (3 if error else 0), done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_with_a_path_the_system_is_the_users(tmp_path):
    all_ = rows()
    model = all_.fitted(HybridClassifier(path=tmp_path / "s"))
    said = model.predict(all_.X)
    del model
    with hybridmu.connect(tmp_path / "s.yaml", executor="local") as system:
        frame = [{f"x{n}": float(value) for n, value in enumerate(row)} for row in all_.X]
        assert [each["label"] for each in system.predict(frame)["predictions"]] == said.tolist()
        assert system.forget(ids=[7], wait=True)["state"] == "SERVED"


def test_a_system_that_is_there_is_not_replaced(tmp_path):
    all_ = rows()
    model = all_.fitted(HybridClassifier(path=tmp_path / "s"))
    model.forget(ids=[0])
    for again in (model, clone(model)):
        with pytest.raises(StateError, match="exists"):
            all_.fitted(again)
    assert model.system_.requests()[0]["state"] == "PURGED"


def test_a_pickle_names_the_path_and_both_ends_see_what_is_forgotten(tmp_path):
    all_ = rows()
    model = all_.fitted(HybridClassifier(path=tmp_path / "s"))
    before = model.predict_proba(all_.X)
    saved = tmp_path / "model.pickle"
    saved.write_bytes(pickle.dumps(model))
    assert saved.stat().st_size < 2000
    elsewhere = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(saved)], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert elsewhere.stdout == "PURGED\n", elsewhere.stderr
    never = all_.where(all_.ids != 7).fitted(HybridClassifier())
    assert np.array_equal(model.predict_proba(all_.X), never.predict_proba(all_.X))
    assert not np.array_equal(model.predict_proba(all_.X), before)
    assert copy.deepcopy(model).forget(ids=[14])["state"] == "PURGED"
    assert model.system_.status()["version"] == 3


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_a_folder_of_its_own_is_not_pickled(copied):
    model = rows().fitted(HybridClassifier())
    with pytest.raises(StateError, match=r"path=…"):
        copied(model)
    copied(HybridClassifier())


def test_where_another_coordinator_works_it_is_followed(tmp_path):
    all_ = rows()
    model = all_.fitted(HybridClassifier(path=tmp_path / "s"))
    code = f"""
import hybridmu
system = hybridmu.connect({str(tmp_path / "s.yaml")!r}, executor="local")
print("there", flush=True)
system.run(watch=lambda _: None)
"""
    daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout.readline() == "there\n"
        while model.system_.lease.holder(60.0) is None:
            assert daemon.poll() is None
        report = model.forget(ids=[7])
        assert report["state"] in {"SERVED", "PURGED"}
        assert report["owes_exact_repair"] == []
        assert model.system_.lease.holder(60.0) is not None
    finally:
        daemon.kill()
        daemon.wait()
