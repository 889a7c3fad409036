"""Backbones of a process: loaded once, shared by all, and never another one than the digest says."""

import copy
import re
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from hybridmu.core.adapters.backbone_files import digest_of_files
from hybridmu.core.adapters.frozen_backbone import Form, skeleton_of
from hybridmu.errors import ConfigError
from tests.scenes.tiny_transformer import WIDTH, write_transformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_transformer(tmp_path_factory.mktemp("models") / "bert")


def form(folder, method="ia3", rank=0, dropout=0.0):
    return Form(str(folder), digest_of_files(str(folder)), method, rank, dropout)


def numbers(rows=3, length=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(4, 80, (rows, length), generator=draw)


def frozen(skeleton):
    named = skeleton.network.named_parameters()
    return {tensor.data_ptr(): tensor.numel() for name, tensor in named if not re.search("ia3_l|lora_", name)}


def test_all_forms_have_the_same_tensors(folder):
    every = [skeleton_of(form(folder, *how)) for how in (("ia3",), ("lora", 2), ("lora", 4), ("head",))]
    assert all(frozen(one) == frozen(every[0]) for one in every)
    assert skeleton_of(form(folder)) is every[0]
    assert copy.deepcopy(every[0]) is every[0]
    assert not any(tensor.requires_grad for one in every for tensor in one.network.parameters())


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_adapters_are_at_their_places(tmp_path, kind):
    folder = write_transformer(tmp_path / kind, kind=kind)
    scales = skeleton_of(form(folder)).initial()
    assert sum(tensor.numel() for tensor in scales.values()) == 2 * (2 * WIDTH + 48)
    assert all(bool((tensor == 1).all()) for tensor in scales.values())
    products = skeleton_of(form(folder, "lora", 2)).initial()
    assert sum(tensor.numel() for tensor in products.values()) == 2 * 2 * (2 * 2 * WIDTH)
    assert skeleton_of(form(folder, "head")).initial() == {}
    fresh = [skeleton_of(form(folder, *how)) for how in (("ia3",), ("lora", 2), ("head",))]
    made = [one.pooled(numbers(), one.initial(), training=False) for one in fresh]
    for one in made[1:]:  # before training, adapters change nothing
        torch.testing.assert_close(one, made[0])


def test_products_are_drawn_and_loading_draws_nothing(tmp_path):
    folder = write_transformer(tmp_path / "bert", seed=9)
    torch.manual_seed(3)
    first = skeleton_of(form(folder, "lora", 2))
    one = first.initial()  # right after the backbone was loaded
    torch.manual_seed(3)
    two = first.initial()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other) for name, other in first.initial().items())


@torch.no_grad()
def test_padding_does_not_leak(folder):
    """A text has the same vector however far it is filled up, and whatever stands beside it, but for rounding."""
    skeleton = skeleton_of(form(folder))
    adapter = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in skeleton.initial().items()}
    text = numbers(1, 5)
    alone = skeleton.pooled(text, adapter, training=False)
    filled = torch.cat([text, torch.full((1, 20), -1)], dim=1)
    torch.testing.assert_close(skeleton.pooled(filled, adapter, training=False), alone, rtol=0, atol=1e-5)
    beside = torch.cat([filled, numbers(300, 25, seed=1)])  # more rows than are computed at once
    torch.testing.assert_close(skeleton.pooled(beside, adapter, training=False)[:1], alone, rtol=0, atol=1e-5)
    nothing = skeleton.pooled(torch.full((2, 5), -1), adapter, training=False)
    assert torch.equal(nothing, torch.zeros(2, WIDTH))


def test_many_rows_have_the_gradients_of_few(folder):
    skeleton = skeleton_of(form(folder))
    given = numbers(150, 6)

    def gradients(*parts):
        adapter = {name: tensor.requires_grad_() for name, tensor in skeleton.initial().items()}
        total = sum(skeleton.pooled(part, adapter, training=False).square().sum() for part in parts)
        return torch.autograd.grad(total, list(adapter.values()))

    for one, two in zip(gradients(given), gradients(given[:100], given[100:]), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_threads_with_other_adapters_do_not_meet(folder):
    skeleton = skeleton_of(form(folder))
    adapters = [{name: tensor * factor for name, tensor in skeleton.initial().items()} for factor in (0.5, 1.0, 2.0)]
    given = numbers(4, 6)
    right = [skeleton.pooled(given, adapter, training=False) for adapter in adapters]
    wrong = []

    def ask(number):
        for _ in range(20):
            with torch.no_grad():
                found = skeleton.pooled(given, adapters[number], training=False)
            if not torch.equal(found, right[number]):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def rewritten(folder, change):
    weights = folder / "model.safetensors"
    save_file(change(load_file(weights)), weights)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: {name: t for name, t in found.items() if "layer.1.output.dense" not in name}, "lacks weights"),
        (lambda found: {name: t * float("nan") for name, t in found.items()}, "no numbers"),
        (lambda found: {name: t[:-1].contiguous() for name, t in found.items()}, "can't be loaded"),
    ],
)
def test_weights_that_are_not_the_models(tmp_path, change, says):
    folder = write_transformer(tmp_path / "bert")
    rewritten(folder, change)
    with pytest.raises(ConfigError, match=says):
        skeleton_of(form(folder))


def test_a_damaged_file_and_one_that_changes_under_our_hands(tmp_path):
    folder = write_transformer(tmp_path / "bert")
    known = form(folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ConfigError, match="changed while it was read"):
        skeleton_of(known)
    data[9] ^= 255  # of the header
    weights.write_bytes(data)
    with pytest.raises(ConfigError, match="can't be loaded"):
        skeleton_of(form(folder))
