"""The task of adapters: its options, and the check that every task passes before it is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hybridmu import code_digest as digests
from hybridmu.code_digest import code_digest
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.strategies.requirements import unfit_updates
from hybridmu.core.task_check import Trial, check, sample
from hybridmu.core.tasks.task_making import make_task
from hybridmu.errors import ConfigError
from tests.core.adapters.test_adapter_model import CLASSES, METHODS, fresh, make_rows
from tests.scenes.tiny_transformer import LENGTH, PLACES, write_transformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_transformer(tmp_path_factory.mktemp("models") / "bert")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"length": LENGTH}, "does not take these options"),
        ({"backbone": "", "length": LENGTH}, r"task\.backbone is wrong"),
        ({"backbone": 3, "length": LENGTH}, r"task\.backbone is wrong"),
        ({"backbone": "f"}, "does not take these options"),
        ({"backbone": "f", "length": 3}, r"task\.length is wrong"),
        ({"backbone": "f", "length": True}, r"task\.length is wrong"),
        ({"backbone": "f", "length": LENGTH, "method": "prefix"}, r"task\.method is wrong"),
        ({"backbone": "f", "length": LENGTH, "rank": 4}, r"task\.rank is wrong"),
        ({"backbone": "f", "length": LENGTH, "method": "lora", "rank": 0}, r"task\.rank is wrong"),
        ({"backbone": "f", "length": LENGTH, "dropout": 1.0}, r"task\.dropout is wrong"),
        ({"backbone": "f", "length": LENGTH, "dropout": float("nan")}, r"task\.dropout is wrong"),
    ],
)
def test_options_that_are_wrong(options, says):
    with pytest.raises(ConfigError, match=says):
        make_task("adapter", options)


def test_it_learns_no_numbers():
    with pytest.raises(ConfigError, match="learns classes alone"):
        make_task("adapter", {"backbone": "f", "length": LENGTH}, targets=["price"])


def test_a_table_without_its_tokens(folder):
    with pytest.raises(ConfigError, match="does not match the features"):
        make_task("adapter", {"backbone": str(folder), "length": LENGTH}).model(LENGTH, CLASSES)
    with pytest.raises(ConfigError, match=f"at most {PLACES}"):
        make_task("adapter", {"backbone": str(folder), "length": PLACES + 1}).model(4 * PLACES, CLASSES)


def test_an_adapter_of_another_rank_or_method_is_no_state_of_it(folder):
    rows = make_rows()
    models = [
        fresh(make_task("adapter", {"backbone": str(folder), "length": LENGTH, **options}), rows)
        for options in (*METHODS, {"method": "lora", "rank": 4})
    ]
    for one in models:
        for two in models:
            if one is not two:
                with pytest.raises(RuntimeError, match=r"size mismatch|Missing key|Unexpected key"):
                    one.load_state_dict(two.state_dict())


@pytest.mark.parametrize("options", METHODS, ids=lambda options: options["method"])
def test_it_passes_the_check_of_tasks_and_all_updates_fit(folder, options):
    rows = make_rows(16)
    task = make_task("adapter", {"backbone": str(folder), "length": LENGTH, "dropout": 0.1, **options})
    recipe = Recipe((1, 1), batch_size=4, seed=0, optimizer="adamw", lr=0.003)
    trial = Trial("adapter", task, CLASSES, False, recipe, sample(rows.x, rows.y))
    assert check(trial) == check(replace(trial, task=make_task(
        "adapter", {"backbone": str(folder), "length": LENGTH, "dropout": 0.1, **options})))  # fmt: skip
    assert unfit_updates(fresh(task, rows), task, rows.x.shape[1]) == {}
    assert torch.isfinite(fresh(task, rows).eval()(torch.zeros(2, rows.x.shape[1]))).all(), "texts without a token"


@pytest.mark.parametrize("package", ["peft", "transformers"])
def test_its_libraries_and_files_are_in_the_keys_of_its_systems_alone(package):
    adapter, other = make_task("adapter", {"backbone": "f", "length": LENGTH}), make_task("mlp", {})
    assert code_digest(adapter, {package: "0+another"}) != code_digest(adapter)
    assert code_digest(other, {package: "0+another"}) == code_digest(other)


def test_every_file_that_shapes_adapters_is_in_their_keys():
    files = {f"adapters/{file.name}" for file in (digests._CORE / "adapters").glob("*.py")}
    assert files - {"adapters/__init__.py"} <= set(digests.OF_ADAPTERS.values())
