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
from hybridmu.core.tasks.classification import Classification
from hybridmu.errors import DataError, StateError
from hybridmu.serving import forward_passes
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
def test_a_steady_one_answers_with_the_bits_of_its_sub_models_one_by_one():
    x = torch.randn(9, 2)
    found = ensemble(steady=True)
    assert found.way == "loop"
    assert torch.equal(found.logits(x.numpy()), torch.stack([model(x) for model in models(3)]))
    assert found.withholding(frozenset({1})).way == "loop"


@torch.no_grad()
def test_models_for_which_a_sample_is_much_work_are_asked_twice(monkeypatch):
    monkeypatch.setattr(forward_passes, "_LONG_SECONDS", -1.0)
    some, asked = models(2), []
    some[0].register_forward_hook(lambda *_: asked.append(1))
    name, forward, seconds = fastest(some, torch.randn(16, 2))
    assert (name, [*seconds], len(asked)) == ("loop", ["loop"], 2)
    assert forward(torch.randn(3, 2)).shape == (2, 3, 2)


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


# ---------------------------------------------------------------------- models of users


class Told(nn.Module):
    """A linear layer whose logits a function changes."""

    def __init__(self, change):
        super().__init__()
        self.h, self.change = nn.Linear(2, 2), change

    def forward(self, x):
        return self.change(self.h(x), x)


def of(change, count: int = 3) -> Ensemble:
    torch.manual_seed(0)
    made = {n: (f"blob{n}", SubModel(Told(change)).eval()) for n in range(count)}
    return Ensemble(7, made, ENCODER, "mean")


def asked(found: Ensemble, *numbers: float):
    return found.answer(found.encode(rows(*numbers)))["predictions"]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_width_are_answered(kind):
    plain, other = (asked(of(change), 1.0, -2.0) for change in (lambda h, _: h, lambda h, _: h.to(kind)))
    for one, two in zip(plain, other, strict=True):
        assert one["probabilities"] == pytest.approx(two["probabilities"], abs=0.02)


@pytest.mark.parametrize(
    "change", [lambda h, _: h[:3], lambda h, _: torch.cat([h, h]), lambda h, _: h[:, :1], lambda h, _: h[:, :, None]]
)
def test_a_model_must_answer_every_row(change):
    found = of(change)
    with pytest.raises(DataError, match="does not answer every row"):
        asked(found, *map(float, range(7)))
    several = found.answers([rows(1.0, 2.0, 3.0, 4.0), rows(5.0, 6.0)])
    assert all(isinstance(one, DataError) or len(one["predictions"]) == 2 for one in several)


class Ends(BaseException):
    pass


@pytest.mark.parametrize("error", [SystemExit(3), Ends("row 17")])
def test_a_model_that_ends_the_process_refuses_its_rows_alone(error):
    def leave(h, x):
        if (x.abs() > 50).any():
            raise error
        return h

    found = of(leave)
    with pytest.raises(DataError, match="can't answer these rows") as said:
        asked(found, 99.0)
    assert said.value.got == type(error).__name__, "its words may name a row"
    right, wrong = found.answers([rows(1.0), rows(99.0)])
    assert isinstance(wrong, DataError)
    assert right["predictions"]


def test_an_interrupt_of_a_forward_pass_is_an_interrupt():
    def interrupt(h, x):
        if (x.abs() > 50).any():
            raise KeyboardInterrupt
        return h

    with pytest.raises(KeyboardInterrupt):
        asked(of(interrupt), 99.0)


def test_a_model_that_cannot_answer_zeros_answers_other_rows():
    def refuse(h, x):
        if (x == 0).all():
            raise ValueError("no zeros")
        return h

    found = of(refuse)
    assert (found.way, found.seconds, found.quick(1)) == ("loop", {}, False)
    assert asked(found, 1.0)


class Short(Classification):
    def combine(self, logits, how):
        return logits[0, :-1]


class Leaving(Classification):
    def combine(self, logits, how):
        raise SystemExit(3)


@pytest.mark.parametrize(("judgement", "says"), [(Short(), "does not answer every row"), (Leaving(), "can't answer")])
def test_a_judgement_that_fails_is_said_to_every_caller(judgement, says):
    held = ensemble(judgement=judgement)
    for answer in held.answers([rows(1, 2), rows(3)]):
        assert isinstance(answer, DataError)
        assert says in answer.what
