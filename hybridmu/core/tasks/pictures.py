"""The built-in task `resnet`: a residual network for pictures, trained on flipped and shifted ones.

Made for two cores: patches of 2×2 pixels become the first channels, which is four times as fast as a first stage on all
pixels, for a point or two of accuracy (docs/log.md). Flips and shifts only copy pixels: they round nothing, on any
device.

This file shapes weights, as `core/tasks/augmentation.py` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridmu.core.tasks.augmentation import Augmented, Draws
from hybridmu.core.tasks.base import CrossEntropyTask
from hybridmu.errors import ConfigError

_LARGEST = 1 << 16  # of a side or a width; beyond it a machine's memory ends before the training begins
_SMALLEST = 16  # of a picture's side: the network halves it four times


class ResNet(CrossEntropyTask, Augmented):
    """A residual network with GroupNorm (no batch statistics, so nothing leaks between rows).

    Args:
        shape: Picture as [channels, height, width]; its product is the number of features. Sides are 16 or more.
        width: Channels of the first stage, a multiple of 8; the other three have 2, 4 and 8 times as many.
        flip: Whether every visit of a training row mirrors it, left to right, with probability 1/2: right for
            photographs, wrong for digits and letters.
        shift: By how many pixels at most a visit shifts it up or down, and left or right; what comes in is mirrored at
            the border.
        label_smoothing: Share of the target that is spread over all classes, 0 to below 1.
    """

    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        width: int = 32,
        flip: bool = False,
        shift: int = 4,
        label_smoothing: float = 0.1,
    ) -> None:
        sizes = list(shape) if isinstance(shape, (list, tuple)) else []
        if not (
            len(sizes) == 3
            and all(type(size) is int and 1 <= size <= _LARGEST for size in sizes)
            and min(sizes[1:]) >= _SMALLEST
        ):
            raise _wrong("shape", f"[channels, height, width] with sides of {_SMALLEST} to {_LARGEST}", shape)
        if type(width) is not int or not 8 <= width <= _LARGEST or width % 8:
            raise _wrong("width", f"a multiple of 8 from 8 to {_LARGEST}", width)
        if not isinstance(flip, bool):
            raise _wrong("flip", "true or false", flip)
        if type(shift) is not int or not 0 <= shift < min(sizes[1:]):
            raise _wrong("shift", f"a whole number from 0 to {min(sizes[1:]) - 1}", shift)
        if type(label_smoothing) not in {int, float} or not 0 <= label_smoothing < 1:
            raise _wrong("label_smoothing", "a number from 0 to below 1", label_smoothing)
        self.shape: tuple[int, ...] = tuple(sizes)
        self.width = width
        self.flip = flip
        self.shift = shift
        self.label_smoothing = float(label_smoothing)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy against smoothed labels (arXiv 1512.00567, §7)."""
        return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def augment(self, x: Tensor, draws: Draws) -> Tensor:
        """Return mirrored and shifted pictures.

        Args:
            x: float32 [n, features].
            draws: Of each row: whether to mirror it, how far down, how far to the right.

        Returns:
            float32 [n, features]; every value is one of the row's own.
        """
        _, height, width = self.shape
        pictures = x.view(-1, *self.shape)
        across = torch.arange(width, device=x.device).expand(len(x), width)
        if self.flip:
            mirrored = draws.below(2)[:, None] == 1
            across = torch.where(mirrored, width - 1 - across, across)
        if self.shift:
            down = _reflected(torch.arange(height, device=x.device) + self._offsets(draws), height)
            across = across.gather(1, _reflected(torch.arange(width, device=x.device) + self._offsets(draws), width))
            pictures = pictures.gather(2, down[:, None, :, None].expand(-1, self.shape[0], -1, width))
        return pictures.gather(3, across[:, None, None, :].expand(-1, self.shape[0], height, -1)).flatten(1)

    def _offsets(self, draws: Draws) -> Tensor:
        return draws.below(2 * self.shift + 1)[:, None] - self.shift

    def model(self, features: int, classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ConfigError: `shape` does not hold `features` values.
        """
        if torch.Size(self.shape).numel() != features:
            raise ConfigError(
                "task.shape does not match the table",
                expected=f"a shape of {features} values",
                got=str(list(self.shape)),
                remedy="set task.shape to [channels, height, width]",
            )
        first, second, third, fourth = (self.width * 2**stage for stage in range(4))
        network = nn.Sequential(
            nn.Unflatten(1, self.shape),
            nn.Conv2d(self.shape[0], first, 2, 2, bias=False),
            nn.GroupNorm(8, first),
            nn.ReLU(),
            _Convolution(first, second, pool=True),
            _Residual(second),
            _Convolution(second, third, pool=True),
            _Convolution(third, fourth, pool=True),
            _Residual(fourth),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(fourth, classes),
        )
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types do not know it
        return network


class _Convolution(nn.Sequential):
    """A 3×3 convolution, GroupNorm and ReLU; `pool` halves the picture in between."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool = False) -> None:
        halved = [nn.MaxPool2d(2)] if pool else []
        super().__init__(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), *halved, nn.GroupNorm(8, outputs), nn.ReLU())


class _Residual(nn.Module):
    """Two convolutions beside the input that they are added to."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_Convolution(channels, channels), _Convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.body(x)
        return found


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Return positions within 0..size − 1, those beyond mirrored at the border, which is not repeated."""
    inner = positions.abs()
    return torch.where(inner >= size, 2 * (size - 1) - inner, inner)


def _wrong(name: str, expected: str, got: object) -> ConfigError:
    return ConfigError(f"task.{name} is wrong", expected=expected, got=repr(got)[:100])
