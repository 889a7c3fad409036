"""One version that answers: ways that agree, batches that do not mix, threads that do not meet."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybridmu.core.kernel.model import Standardize, SubModel
from hybridmu.core.kernel.table_encoder import Column, Encoder
from hybridmu.errors import DataError, StateError
from hybridmu.serving.ensemble import Ensemble
from hybridmu.serving.forward_passes import batched_matmul, fastest, loop, vmapped

ENCODER = Encoder((Column("a", "number", 1), Column("b", "number", 1)), "label", ("no", "yes"))


def models(count: int, seed: int = 0, hidden: int = 5) -> list[SubModel]:
    torch.manual_seed(seed)
    made = []
    for _ in range(count):
        scale = Standardize(2)
        scale.mean.normal_()
        net = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 2))
        made.append(SubModel(scale, net).eval())
    return made


def ensemble(count: int = 3, **options) -> Ensemble:
    return Ensemble(7, {n: (f"blob{n}", model) for n, model in enumerate(models(count))}, ENCODER, "mean", **options)


def rows(*numbers: float) -> list[dict[str, float]]:
    return [{"a": number, "b": -number} for number in numbers]


@torch.no_grad()
def test_all_ways_agree():
    some, x = models(4), torch.randn(9, 2)
    for way in (vmapped, batched_matmul):
        forward = way(some)
        assert forward is not None
        torch.testing.assert_close(forward(x), loop(some)(x))


@torch.no_grad()
def test_one_version_is_measured_while_another_one_answers():
    """They share the sub-models that did not change; a way of running them must leave them alone."""
    shared, x = models(4), torch.randn(16, 2)
    right, stop, wrong = loop(shared)(x), threading.Event(), []

    def answer() -> None:
        with torch.no_grad():
            while not stop.is_set():
                try:
                    if not torch.equal(loop(shared)(x), right):
                        wrong.append("other numbers")
                except RuntimeError as error:
                    wrong.append(str(error))

    threads = [threading.Thread(target=answer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        fastest(shared, x)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]


NUMBERS = st.floats(-3, 3, width=32)
REQUEST = st.lists(NUMBERS, min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(st.tuples(REQUEST, st.booleans()), min_size=1, max_size=5))
def test_a_batch_answers_each_request_as_if_it_were_alone(asked):
    found = ensemble()
    requests = [rows(*numbers) if right else [*rows(*numbers), {"a": "x", "b": 1.0}] for numbers, right in asked]
    answers = found.answers(requests)
    assert len(answers) == len(requests)
    for answer, request, (_, right) in zip(answers, requests, asked, strict=True):
        if not right:
            assert isinstance(answer, DataError)
            continue
        alone = found.answer(found.encode(request))
        assert (answer["version"], len(answer["predictions"])) == (7, len(request))
        for ours, theirs in zip(answer["predictions"], alone["predictions"], strict=True):
            assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-6)


def test_what_is_withheld_does_not_vote_and_nothing_is_copied():
    whole = ensemble(removed={0: 4, 1: 4, 2: 9, 8: 1})
    assert (whole.removed, whole.voters) == ({0: 4, 1: 4, 2: 9}, 3)
    part = whole.withholding(frozenset({0, 8}))
    x = part.encode(rows(1.0, 2.0))
    two = torch.stack([torch.softmax(part.models[n][1](torch.from_numpy(x)), 1) for n in (1, 2)]).mean(0)
    assert part.probabilities(x) == pytest.approx(two.detach().numpy(), abs=1e-6)
    assert (part.withheld, part.voters, whole.withheld) == ({0}, 2, frozenset())
    assert part.models is whole.models
    assert part.answer(x)["withheld"] == 1, "an answer says how many, not which: shards may be guessed from ids"
    with pytest.raises(StateError, match="no shard is left"):
        whole.withholding(frozenset({0, 1, 2})).probabilities(x)


def test_long_work_is_told_from_quick_work():
    found = ensemble()
    found.seconds = {found.way: 0.0005}
    assert found.quick(1)
    assert found.quick(150)
    assert not found.quick(170)
    found.seconds = {found.way: 0.02}
    assert not found.quick(1)
    found.seconds = {found.way: 1e-6}
    assert not found.quick(5_000), "encoding takes its time too"


def test_without_rows_there_is_nothing_to_answer():
    with pytest.raises(DataError, match="no rows"):
        ensemble().encode([])
