"""Demands on a task: one that can't be trained is refused with a sentence, before anything is stored."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hybridmu.core.kernel.training import Recipe
from hybridmu.core.task_check import Trial, check, sample
from hybridmu.errors import ConfigError
from hybridmu.task import Augmented, Cnn, CrossEntropyTask, Linear, Mlp, ResNet

FEATURES, CLASSES = 6, 3


def trial(task, *, rows=12, standardize=True, **recipe) -> Trial:
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.normal(size=(rows, FEATURES)).astype(np.float32))
    y = torch.from_numpy(random.integers(0, CLASSES, rows))
    given = Recipe(**{"epochs": (1, 1), "batch_size": 8, "seed": 1, "lr": 0.1, **recipe})
    return Trial("nets:Net", task, CLASSES, standardize, given, sample(x, y))


class Made(CrossEntropyTask):
    """A task whose model a function makes."""

    def __init__(self, make, loss=None):
        self.make = make
        if loss is not None:
            self.loss = loss

    def model(self, features, classes):
        return self.make(features, classes)


class Body(nn.Module):
    """A linear layer, with something done to what comes in and out."""

    def __init__(self, features, classes, before=lambda x: x, after=lambda x: x):
        super().__init__()
        self.h, self.before, self.after = nn.Linear(features, classes), before, after

    def forward(self, x):
        return self.after(self.h(self.before(x)))


def after(change):
    return lambda f, c: Body(f, c, after=change)


# ---------------------------------------------------------------------- what works


class Expanded(Body):
    def __init__(self, f, c):
        super().__init__(f, c)
        self.register_buffer("scale", torch.ones(1).expand(f))
        self.gain = nn.Parameter(torch.ones(1, 1).expand(1, f))
        self.register_buffer("windows", torch.arange(6.0).unfold(0, 3, 1))

    def forward(self, x):
        return self.h(x * self.scale * self.gain)


class Tied(nn.Module):
    def __init__(self, f, c):
        super().__init__()
        self.a, self.b, self.h = nn.Linear(f, f), nn.Linear(f, f), nn.Linear(f, c)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.h(self.b(self.a(x).relu()))


class Attention(nn.Module):
    def __init__(self, f, c):
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.h = nn.Linear(8, c)

    def forward(self, x):
        return self.h(self.block(self.embed(x[:, :, None])).mean(dim=1))


class Embedded(nn.Module):
    def __init__(self, f, c):
        super().__init__()
        self.table, self.h = nn.Embedding(4, 5), nn.Linear(5, c)

    def forward(self, x):
        return self.h(self.table((x > 0).long()).mean(dim=1))


def frozen(f, c):
    made = nn.Sequential(nn.Linear(f, 5), nn.ReLU(), nn.Linear(5, c))
    made[0].requires_grad_(False)
    return made


def untrained(f, c):
    return nn.Linear(f, c).requires_grad_(False)


class Masked(Body):
    def __init__(self, f, c):
        super().__init__(f, c)
        self.register_buffer("mask", torch.ones(f), persistent=False)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.h(x * self.mask)


def ignore(logits, y):
    return functional.cross_entropy(logits, y, ignore_index=2)


WORKS = {
    "linear": Linear(),
    "mlp": Mlp([8]),
    "cnn": Cnn([1, 2, 3], 8, 2),
    "expanded": Made(Expanded),
    "tied": Made(Tied),
    "attention": Made(Attention),
    "embedded": Made(Embedded),
    "frozen": Made(frozen),
    "nothing trained": Made(untrained),
    "masked": Made(Masked),
    "dropout": Made(lambda f, c: nn.Sequential(nn.Dropout(0.5), nn.Linear(f, c))),
    "batch norm": Made(lambda f, c: nn.Sequential(nn.BatchNorm1d(f), nn.Linear(f, c))),
    "layer norm": Made(lambda f, c: nn.Sequential(nn.LayerNorm(f), nn.Linear(f, c))),
    "scripted": Made(lambda f, c: torch.jit.script(nn.Sequential(nn.Linear(f, 4), nn.ReLU(), nn.Linear(4, c)))),
    "spectral": Made(lambda f, c: torch.nn.utils.parametrizations.spectral_norm(nn.Linear(f, c))),
    "weightless class": Made(
        nn.Linear, lambda logits, y: functional.cross_entropy(logits, y, weight=torch.tensor([0.0, 1.0, 1.0]))
    ),
    "ignored class": Made(nn.Linear, lambda logits, y: functional.cross_entropy(logits, y, ignore_index=0)),
    "penalised": Made(nn.Linear, lambda logits, y: functional.cross_entropy(logits, y) + 0.1 * logits.square().mean()),
    "another class masked": Made(
        after(lambda x: torch.cat([x[:, :2], torch.full_like(x[:, 2:], -torch.inf)], dim=1)), ignore
    ),
    "bfloat16 inside": Made(
        lambda f, c: Body(f, c, before=lambda x: x.bfloat16().float(), after=torch.Tensor.bfloat16)
    ),
    "dropout that goes on": Made(after(lambda x: functional.dropout(x, 0.5, training=True))),
    "draws": Made(after(lambda x: x + 0.1 * torch.randn(x.shape[1]))),
    "transposed": Made(after(lambda x: x.t().contiguous().t())),
}


@pytest.mark.parametrize("name", WORKS)
def test_a_task_that_keeps_the_contract_passes_and_leaves_the_generators_alone(name):
    given = trial(WORKS[name], standardize=name != "embedded")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert check(given) == check(given)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "recipe",
    [{"optimizer": "adamw", "lr": 0.01}, {"parts": 2}, {"precision": "bfloat16"}, {"momentum": 0.9, "lr": 1e30}],
)
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_it_passes_under_every_recipe_and_with_a_single_row(recipe, rows):
    assert check(trial(Mlp([4]), rows=rows, **recipe))


def test_a_small_model_is_checked_in_no_time():
    check(trial(Mlp([16])))
    started = time.process_time()
    check(trial(Mlp([16])))
    assert time.process_time() - started < 0.5


# ---------------------------------------------------------------------- what does not

SHARED = nn.Linear(FEATURES, CLASSES)


def by_numpy(f, c):
    made = nn.Linear(f, c)
    made.weight.data = torch.tensor(np.random.randn(c, f), dtype=torch.float32)
    return made


class Counting(Body):
    """What its forward does depends on how often it was called."""

    def __init__(self, f, c):
        super().__init__(f, c)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return self.h(x) * (1 + 0.1 * self.calls)


class Transient(Body):
    """Its running mean is in no checkpoint."""

    def __init__(self, f, c):
        super().__init__(f, c)
        self.register_buffer("mean", torch.zeros(f), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(dim=0)
        return self.h(x - self.mean)


class Growing(Body):
    """Its buffer has another shape after training."""

    def __init__(self, f, c):
        super().__init__(f, c)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.seen = torch.cat([self.seen, torch.zeros(1)])
        return self.h(x)


class NumpyDropout(Body):
    def forward(self, x):
        keep = torch.from_numpy((np.random.rand(*x.shape) > 0.5).astype(np.float32)) if self.training else 1.0
        return self.h(x * keep)


class Extra(Body):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


def with_buffer(value):
    def make(f, c):
        made = Body(f, c)
        made.register_buffer("odd", value())
        return made

    return make


class Ends(BaseException):
    pass


def leaves(error):
    def leave(*_):
        raise error

    return leave


class Evaluated(Body):
    """In evaluation mode, and when it is `still`, something else is done to its logits."""

    def __init__(self, f, c, change, still=False):
        super().__init__(f, c)
        self.change = change
        if still:
            nn.init.zeros_(self.h.weight)
            nn.init.zeros_(self.h.bias)

    def forward(self, x):
        return self.h(x) if self.training else self.change(self.h(x))


class Learns(nn.Module):
    """A task whose loss has a parameter."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def model(self, f, c):
        return nn.Linear(f, c)

    def loss(self, logits, y):
        return functional.cross_entropy(logits * self.gain, y)


GAIN = torch.ones(1, requires_grad=True)


class BadState(Body):
    def state_dict(self, *args, **kwargs):
        raise RuntimeError("no state")


def asserts(x):
    assert x.shape[1] == 99


REFUSED = {
    "no return": (Made(lambda f, c: None), r"returned no module\n  expected: a torch.nn.Module\n  got: NoneType"),
    "a class": (Made(lambda f, c: nn.Linear), r"returned no module[\s\S]*got: the class Linear"),
    "one logit": (
        Made(lambda f, c: nn.Linear(f, 1)),
        r"returns \[2, 1\] for 2 row\(s\)\n  expected: \[2, 3\]\n  got: \[2, 1\]",
    ),
    "ten logits": (Made(lambda f, c: nn.Linear(f, 10)), r"expected: \[2, 3\]\n  got: \[2, 10\]"),
    "squeezed": (Made(after(torch.squeeze)), r"returns \[3\] for 1 row\(s\)[\s\S]*keep the batch dimension"),
    "tuple": (Made(after(lambda x: (x, x))), r"expected: a tensor \[2, 3\]\n  got: tuple"),
    "None": (Made(after(lambda x: None)), "got: NoneType"),
    "integers": (Made(after(torch.Tensor.long)), r"expected: floating point\n  got: torch.int64"),
    "NaN": (Made(after(lambda x: x * float("nan"))), "expected: numbers, of an untrained model\n  got: NaN"),
    "numpy": (
        Made(by_numpy),
        r"makes two models that differ, with the same seed[\s\S]*other bits in weight[\s\S]*torch's generator",
    ),
    "shared": (Made(lambda f, c: SHARED), r"makes another model, with the same seed, once one was trained"),
    "numpy dropout": (Made(NumpyDropout), r"trains two models that differ, with the same seed"),
    "counting": (Made(Counting), r"goes on from a checkpoint otherwise|answers otherwise"),
    "transient": (Made(Transient), r"state_dict does not hold all[\s\S]*these are not persistent: mean"),
    "growing": (Made(Growing), r"can't be loaded from a checkpoint[\s\S]*seen"),
    "lazy": (Made(lambda f, c: nn.LazyLinear(c)), r"a tensor without a shape: weight"),
    "extra state": (Made(Extra), r"a state that is no tensor: _extra_state"),
    "sparse": (Made(with_buffer(lambda: torch.eye(3).to_sparse())), r"can't be saved: odd[\s\S]*sparse"),
    "quantised": (
        Made(with_buffer(lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))),
        r"can't be saved: odd[\s\S]*qint8",
    ),
    "elsewhere": (
        Made(lambda f, c: nn.Linear(f, c, device="meta")),
        r"on a device: weight\n  expected: cpu[\s\S]*got: meta",
    ),
    "KeyError": (
        Made(after(lambda x: {}["gain"])),
        r"asked about 2 row\(s\)\n  got: KeyError: 'gain' \(test_task_check\.py:\d+\)",
    ),
    "AssertionError": (Made(after(asserts)), r"AssertionError: assert .* == 99 \(test_task_check\.py:\d+\)"),
    "in torch": (Made(lambda f, c: nn.Linear(f + 1, c)), r"RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    "in model": (
        Made(lambda f, c: 1 // 0),
        r"fails in its model\n  got: ZeroDivisionError: .* \(test_task_check\.py:\d+\)",
    ),
    "loss per row": (
        Made(nn.Linear, lambda logits, y: functional.cross_entropy(logits, y, reduction="none")),
        r"not one number for 12 row\(s\)[\s\S]*got: torch.float32 \[12\]",
    ),
    "sum": (
        Made(nn.Linear, lambda logits, y: functional.cross_entropy(logits, y, reduction="sum")),
        r"no mean over rows[\s\S]*reduction='mean'",
    ),
    "float": (Made(nn.Linear, lambda logits, y: 1.0), r"not one number[\s\S]*got: float"),
    "detached": (
        Made(nn.Linear, lambda logits, y: functional.cross_entropy(logits.detach(), y)),
        "can't be differentiated",
    ),
    "exit in model": (
        Made(leaves(SystemExit(2))),
        r"fails in its model\n  got: SystemExit: 2 \(test_task_check\.py:\d+\)",
    ),
    "exit without a word": (Made(leaves(SystemExit())), r"fails in its model\n  got: SystemExit"),
    "exit in forward": (Made(after(leaves(SystemExit(2)))), r"asked about 2 row\(s\)\n  got: SystemExit: 2"),
    "exit in loss": (Made(nn.Linear, leaves(SystemExit(2))), r"model or loss, in training mode\n  got: SystemExit: 2"),
    "BaseException": (Made(leaves(Ends("odd"))), r"fails in its model\n  got: Ends: odd"),
    "bad state": (Made(BadState), r"fails in its model\n  got: RuntimeError: no state"),
    "minus the mean": (Made(lambda f, c: Body(f, c, before=lambda x: x - x.mean(0))), r"otherwise beside other rows"),
    "minus the mean, from zero": (
        Made(lambda f, c: Evaluated(f, c, lambda x: x - 0.1 * x.mean(0), still=True)),
        r"answers a row otherwise beside other rows",
    ),
    "by count": (Made(after(lambda x: x / len(x))), r"answers a row otherwise beside other rows"),
    "by place": (Made(after(lambda x: x * torch.arange(1, len(x) + 1)[:, None])), r"otherwise beside other rows"),
    "few answers": (Made(after(lambda x: x[:3])), r"returns \[3, 3\] for 12 row\(s\)\n  expected: \[12, 3\]"),
    "infinite": (
        Made(lambda f, c: Evaluated(f, c, lambda x: x + torch.inf)),
        r"returns no logits for 2 row\(s\)[\s\S]*got: infinite ones",
    ),
    "all masked": (Made(lambda f, c: Evaluated(f, c, lambda x: x - torch.inf)), "got: infinite ones"),
    "NaN loss": (
        Made(nn.Linear, lambda logits, y: functional.cross_entropy(logits, y) * float("nan")),
        r"a loss that is never finite[\s\S]*got: nan for every one",
    ),
    "infinite loss": (
        Made(nn.Linear, lambda logits, y: functional.cross_entropy(logits, y) / 0.0),
        r"a loss that is never finite[\s\S]*got: inf for every one",
    ),
    "NaN in training": (Made(lambda f, c: NoNumbers(f, c)), r"a loss that is never finite"),
    "learns itself": (Learns(), r"has parameters of its own, which would never be trained"),
    "learns outside": (
        Made(nn.Linear, lambda logits, y: functional.cross_entropy(logits * GAIN, y)),
        r"has parameters of its own, which would never be trained",
    ),
    "loss fails": (Made(nn.Linear, lambda logits, y: {}["z"]), "fails in its model or loss, in training"),
    "own batch statistics": (
        Made(lambda f, c: Body(f, c, before=lambda x: x - x[1])),
        r"fails in its model, asked about 1 row",
    ),
    "needs two rows": (
        Made(lambda f, c: NeedsTwo(f, c)),
        r"can't be trained on a single row[\s\S]*ValueError: two, please",
    ),
}


class NoNumbers(Body):
    def forward(self, x):
        return self.h(x) * (torch.nan if self.training else 1.0)


class NeedsTwo(Body):
    def forward(self, x):
        if self.training and len(x) < 2:
            raise ValueError("two, please")
        return self.h(x)


class Shaken(Linear, Augmented):
    """A task whose augmentation is given."""

    def __init__(self, change) -> None:
        self.augment = change

    def augment(self, x, draws):
        raise NotImplementedError


AUGMENTS = {
    "a fault of its own": (lambda x, draws: {}["augment"], "fails in its augment"),
    "half": (lambda x, draws: x[:, :2], r"augments rows to something else[\s\S]*float32 \[12, 6\]"),
    "doubles": (lambda x, draws: x.double(), "augments rows to something else"),
    "no tensor": (lambda x, draws: None, "augments rows to something else"),
    "nan": (lambda x, draws: x / 0, "not finite"),
    "torch's generator": (lambda x, draws: x + torch.rand(x.shape), "otherwise a second time"),
    "the mean": (lambda x, draws: x - x.mean(dim=0), "otherwise beside other rows"),
}


@pytest.mark.parametrize("name", AUGMENTS)
def test_an_augmentation_that_breaks_the_contract_is_refused_with_what_it_does(name):
    change, says = AUGMENTS[name]
    with pytest.raises(ConfigError, match=says):
        check(trial(Shaken(change)))


def test_an_augmentation_of_each_row_by_its_draws_passes():
    assert check(trial(Shaken(lambda x, draws: x * draws.uniform()[:, None])))
    in_place = trial(Shaken(lambda x, draws: x.mul_(draws.below(3)[:, None])))
    before = in_place.rows.x.clone()
    assert check(in_place)
    assert torch.equal(in_place.rows.x, before)


def test_the_built_in_augmentation_passes():
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.random((12, 256), np.float32))
    recipe = Recipe((1, 1), batch_size=8, seed=1, lr=0.01)
    rows = sample(x, torch.from_numpy(random.integers(0, CLASSES, 12)))
    assert check(Trial("resnet", ResNet([1, 16, 16], 8, flip=True, shift=2), CLASSES, False, recipe, rows))


@pytest.mark.parametrize("name", REFUSED)
def test_a_task_that_breaks_the_contract_is_refused_with_what_it_does(name):
    task, says = REFUSED[name]
    with pytest.raises(ConfigError, match=says):
        check(trial(task))


def test_a_batch_of_one_row_cannot_teach_batch_statistics():
    with pytest.raises(ConfigError, match=r"sisa\.batch_size is 1: layer 0"):
        check(trial(WORKS["batch norm"], batch_size=1))


def test_parts_of_a_batch_have_no_statistics_of_it():
    with pytest.raises(ConfigError, match="parts of a batch do not have"):
        check(trial(WORKS["batch norm"], parts=2))


def test_an_interrupt_in_a_task_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt):
        check(trial(Made(leaves(KeyboardInterrupt()))))


def test_a_loss_that_is_no_number_for_the_classes_at_hand_passes():
    given = trial(WORKS["weightless class"])
    given.rows.y.zero_()
    assert check(given)


def test_what_trained_before_may_need_two_rows():
    assert check(trial(Made(NeedsTwo)), begins=False)
