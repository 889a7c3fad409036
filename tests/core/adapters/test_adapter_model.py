"""Adapters as sub-models: what they hold, how they are trained, and what folding them into the backbone gives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from hybridmu.core.adapters.frozen_backbone import Form, skeleton_of
from hybridmu.core.adapters.token_codes import digits_of, to_features, to_numbers
from hybridmu.core.kernel.model import state_of
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.learners import get as learner
from hybridmu.core.learners.learner import Fit
from hybridmu.core.tasks.adapter_task import AdapterTask
from hybridmu.serving.forward_passes import loop, vmapped
from tests.scenes.tiny_transformer import LENGTH, VOCABULARY, WIDTH, write_transformer

METHODS = [{"method": "ia3"}, {"method": "lora", "rank": 3}, {"method": "head"}]
CLASSES, OTHERS = 3, 2
IDS = [each["method"] for each in METHODS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_transformer(tmp_path_factory.mktemp("models") / "bert")


def make_rows(count=40, seed=0):
    draw = np.random.default_rng(seed)
    y = draw.integers(0, CLASSES, count)
    numbers = draw.integers(20, len(VOCABULARY), (count, LENGTH))
    numbers[:, 1] = 4 + y  # a word of the class
    numbers[np.arange(LENGTH) >= draw.integers(3, LENGTH + 1, count)[:, None]] = -1
    tokens = to_features(numbers, digits_of(len(VOCABULARY))).astype(np.float32) / 127
    x = np.concatenate([draw.normal(size=(count, OTHERS)), tokens], axis=1).astype(np.float32)
    ids = draw.integers(0, 256, (count, 16)).astype(np.uint8)
    slices = np.sort(draw.integers(1, 3, count)).astype(np.int32)
    return Rows(torch.from_numpy(x), torch.from_numpy(y), slices, ids, np.zeros_like(ids), ids)


def task_of(folder, **options):
    return AdapterTask(str(folder), LENGTH, **options)


def fresh(task, rows, shard=0):
    shape = {"features": rows.x.shape[1], "classes": CLASSES, "standardize": False, "seed": 4}
    return learner().initial(task, shard=shard, **shape)


def fitted(task, rows, checkpoints=None, **recipe):
    """Return the states after each slice."""
    given = Recipe((3, 3), **{"batch_size": 8, "seed": 4, "optimizer": "adamw", "lr": 0.02, **recipe})
    known, made = checkpoints or {}, {}
    model = fresh(task, rows)
    learner().fit(Fit(model, rows, given, task, 0, known.get, lambda slice_, state, _: made.update({slice_: state})))
    return made


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("options", METHODS, ids=IDS)
def test_a_state_is_what_is_trained_alone(folder, options):
    rows = make_rows()
    model = fresh(task_of(folder, **options), rows)
    head = CLASSES * (WIDTH + OTHERS + 1)
    adapter = {"ia3": 2 * (2 * WIDTH + 48), "lora": 2 * 2 * 3 * 2 * WIDTH, "head": 0}[options["method"]]
    assert sum(tensor.numel() for tensor in state_of(model).values()) == head + adapter
    assert {name for name, _ in model.named_parameters()} == set(model.state_dict())
    assert list(model.buffers()) == []


@pytest.mark.parametrize("options", METHODS, ids=IDS)
def test_training_repeats_goes_on_from_checkpoints_and_leaves_the_backbone(folder, options):
    rows, task = make_rows(), task_of(folder, dropout=0.2, **options)
    form = Form(str(folder), task.backbone_digest, options["method"], options.get("rank", 0), 0.2)
    network = skeleton_of(form).network
    frozen = [name for name in network.state_dict() if "lora_" not in name]  # in their places products are drawn
    before = {name: network.state_dict()[name].clone() for name in frozen}
    one = fitted(task, rows)
    assert same(one[2], fitted(task_of(folder, dropout=0.2, **options), rows)[2])
    torch.rand(7)  # what was drawn before is nothing to a slice: dropout restarts
    assert same(one[2], fitted(task, rows, {1: one[1]})[2])
    assert not same(one[1], one[2])
    assert not same(one[2], fitted(task_of(folder, **options), rows)[2]), "dropout does something"
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("options", METHODS, ids=IDS)
def test_it_learns(folder, options):
    rows, task = make_rows(80), task_of(folder, **options)
    model = fresh(task, rows)
    model.load_state_dict(fitted(task, rows, lr=0.05)[2])
    with torch.no_grad():
        right = (model.eval()(rows.x).argmax(dim=1) == rows.y).float().mean()
    assert float(right) > 0.6  # by chance a third


def test_others_of_a_shard_are_drawn_by_seed_and_shard(folder):
    rows, task = make_rows(), task_of(folder, method="lora", rank=3)
    one, again, other = (state_of(fresh(task, rows, shard)) for shard in (0, 0, 1))
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize("options", METHODS[:2], ids=IDS[:2])
@torch.no_grad()
def test_folded_into_the_backbone_it_answers_the_same(folder, options):
    """By peft's own arithmetic, on a copy of the backbone that is not shared."""
    rows, task = make_rows(), task_of(folder, **options)
    with torch.enable_grad():
        state = fitted(task, rows)[2]
    model = fresh(task, rows)
    model.load_state_dict(state)
    inner = model.eval()[0]
    network = copy.deepcopy(inner._skeleton.network)
    named = dict(network.named_parameters())
    for name, tensor in inner.adapter.items():
        named[name.replace("/", ".")].copy_(tensor)
    for module in network.modules():
        if hasattr(module, "merge"):
            module.merge()
    assert any(getattr(module, "merged", False) for module in network.modules())
    numbers = to_numbers(rows.x[:, OTHERS:], digits_of(len(VOCABULARY)))
    mask = numbers >= 0
    vectors = network(input_ids=numbers.clamp(min=0), attention_mask=mask.long()).last_hidden_state
    pooled = (vectors * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(inner._skeleton.pooled(numbers, {
        name.replace("/", "."): tensor for name, tensor in inner.adapter.items()}, training=False), pooled,
        rtol=0, atol=1e-5)  # fmt: skip
    folded = inner.head(torch.cat([rows.x[:, :OTHERS], pooled], dim=1))
    torch.testing.assert_close(model(rows.x), folded, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", METHODS, ids=IDS)
@torch.no_grad()
def test_a_row_is_answered_alone_as_beside_others(folder, options):
    rows, task = make_rows(), task_of(folder, **options)
    with torch.enable_grad():
        state = fitted(task, rows)[2]
    model = fresh(task, rows)
    model.load_state_dict(state)
    whole = model.eval()(rows.x)
    alone = torch.cat([model(rows.x[row : row + 1]) for row in range(len(rows))])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-5)
    losses = [task.loss(logits[None], rows.y[row : row + 1]) for row, logits in enumerate(whole)]
    singly = [task.loss(logits[None], rows.y[row : row + 1]) for row, logits in enumerate(alone)]
    torch.testing.assert_close(torch.stack(singly), torch.stack(losses), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", METHODS, ids=IDS)
@torch.no_grad()
def test_stacked_adapters_answer_as_one_after_the_other(folder, options):
    rows, task = make_rows(), task_of(folder, **options)
    models = []
    for shard in range(3):
        model = fresh(task, rows, shard).eval()
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
        models.append(model)
    stacked = vmapped(models)
    assert stacked is not None
    torch.testing.assert_close(stacked(rows.x), loop(models)(rows.x), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        models[0].load_state_dict({**models[1].state_dict(), "0.head.bias": torch.zeros(CLASSES + 1)})
