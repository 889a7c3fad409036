"""The built-in network for pictures: its options, its answers, and what a visit makes of a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from hybridmu.core.tasks.task_making import make_task
from hybridmu.errors import ConfigError
from hybridmu.task import Draws, ResNet

WORDS = np.arange(64, dtype=np.uint64)


def pictures(shape, count=64):
    return torch.arange(count * int(np.prod(shape)), dtype=torch.float32).view(count, -1)


def reference(picture, mirrored, down, right, reach):
    """Return one picture's visit by padding and cutting."""
    if mirrored:
        picture = picture.flip(2)
    padded = functional.pad(picture[None], (reach,) * 4, mode="reflect")[0] if reach else picture
    top, left = reach + down, reach + right
    return padded[:, top : top + picture.shape[1], left : left + picture.shape[2]]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 20), (2, 17, 16)])
@pytest.mark.parametrize(("flip", "shift"), [(True, 4), (False, 3), (True, 0), (False, 0), (True, 15)])
def test_visits_are_mirrored_and_shifted_copies(shape, flip, shift):
    task, x = ResNet(shape, 8, flip, shift), pictures(shape)
    found, again = task.augment(x.clone(), Draws(WORDS)), Draws(WORDS)
    mirrored = again.below(2) if flip else torch.zeros(64)
    down = again.below(2 * shift + 1) - shift if shift else torch.zeros(64, dtype=torch.int64)
    right = again.below(2 * shift + 1) - shift if shift else torch.zeros(64, dtype=torch.int64)
    for row in range(64):
        made = reference(x[row].view(shape), bool(mirrored[row]), int(down[row]), int(right[row]), shift)
        assert torch.equal(found[row].view(shape), made), row
    if flip or shift:
        assert len({tuple(row.tolist()) for row in (found - x)}) > 1


@pytest.mark.parametrize(("shape", "features"), [((3, 32, 32), 3072), ((1, 28, 28), 784), ((2, 16, 17), 544)])
def test_answers_and_gradients(shape, features):
    task = make_task("resnet", {"shape": list(shape), "width": 8})
    model = task.model(features, 5)
    logits = model(torch.rand(3, features))
    assert logits.shape == (3, 5)
    torch.autograd.grad(task.loss(logits, torch.tensor([0, 4, 2])), list(model.parameters()))


def test_the_loss_is_smoothed():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    logs = logits.log_softmax(dim=1)
    target = 0.2 / 4 + 0.8 * functional.one_hot(labels, 4)
    expected = -(target * logs).sum(dim=1).mean()
    assert float(ResNet(label_smoothing=0.2).loss(logits, labels)) == pytest.approx(float(expected), rel=1e-5)


def test_numbers_are_learned_from_augmented_pictures():
    task = make_task("resnet", {"shape": [1, 16, 16], "width": 8, "flip": True, "loss": "huber"}, targets=("y",))
    x = pictures((1, 16, 16))
    classes = ResNet([1, 16, 16], 8, True)
    assert torch.equal(task.augment(x, Draws(WORDS)), classes.augment(x, Draws(WORDS)))
    assert task.model(256, 1)(x).shape == (64, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shape": [3, 15, 32]}, "task.shape is wrong"),
        ({"shape": [3, 32]}, "task.shape is wrong"),
        ({"shape": "3x32x32"}, "task.shape is wrong"),
        ({"shape": [3, 32.0, 32]}, "task.shape is wrong"),
        ({"width": 12}, "task.width is wrong"),
        ({"width": True}, "task.width is wrong"),
        ({"flip": 1}, "task.flip is wrong"),
        ({"shift": 32}, "a whole number from 0 to 31"),
        ({"shift": -1}, "task.shift is wrong"),
        ({"label_smoothing": 1}, "task.label_smoothing is wrong"),
        ({"label_smoothing": float("nan")}, "task.label_smoothing is wrong"),
        ({"label_smoothing": "0.1"}, "task.label_smoothing is wrong"),
        ({"stages": 3}, "does not take these options"),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(ConfigError, match=says):
        make_task("resnet", options)


def test_smoothed_labels_are_for_classes():
    with pytest.raises(ConfigError, match="label_smoothing"):
        make_task("resnet", {"label_smoothing": 0.1}, targets=("y",))


def test_another_shape():
    with pytest.raises(ConfigError, match="a shape of 784 values"):
        ResNet([3, 32, 32]).model(784, 10)
