"""Built-in tasks: `linear`, `mlp` and `cnn`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridmu.core.tasks.base import CrossEntropyTask
from hybridmu.errors import ConfigError

_WIDEST = 1 << 16  # of a layer; beyond it a machine's memory ends before the training begins


def _whole_numbers(
    name: str, value: Sequence[int], most: int, *, count: int | None = None, multiple: int = 1
) -> tuple[int, ...]:
    """Return an option of a built-in task as whole numbers.

    Args:
        name: Of the option.
        value: What the configuration has.
        most: The largest.
        count: How many; any number by default.
        multiple: Of what each must be one.

    Raises:
        ConfigError: It is something else.
    """
    if (
        not isinstance(value, (list, tuple))
        or count not in {None, len(value)}
        or not all(type(each) is int and multiple <= each <= most and each % multiple == 0 for each in value)
    ):
        of = f"whole numbers from {multiple} to {most}" + (f" that are multiples of {multiple}" if multiple > 1 else "")
        raise ConfigError(f"task.{name} is wrong", expected=f"{count or 'a list of'} {of}", got=repr(value)[:100])
    return tuple(value)


class Linear(CrossEntropyTask):
    """Multinomial logistic regression."""

    def model(self, features: int, classes: int) -> nn.Module:
        """Return one linear layer."""
        return nn.Sequential(nn.Linear(features, classes))


class Mlp(CrossEntropyTask):
    """Fully connected network with ReLU.

    Args:
        hidden: Widths of the hidden layers.
    """

    def __init__(self, hidden: Sequence[int] = (128,)) -> None:
        self.hidden = _whole_numbers("hidden", hidden, _WIDEST)

    def model(self, features: int, classes: int) -> nn.Module:
        """Return Linear–ReLU pairs and a linear head."""
        layers: list[nn.Module] = []
        for width in self.hidden:
            layers += [nn.Linear(features, width), nn.ReLU()]
            features = width
        return nn.Sequential(*layers, nn.Linear(features, classes))


class _Residual(nn.Module):
    """Two 3×3 convolutions with GroupNorm around a skip; halves the picture when stride is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.GroupNorm(min(8, outputs), outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.GroupNorm(min(8, outputs), outputs),
        )
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.skip(x))


class Cnn(CrossEntropyTask):
    """A small residual network with GroupNorm (no batch statistics, so nothing leaks between rows).

    Args:
        shape: Picture as [channels, height, width]; its product is the number of features.
        width: Channels of the first stage (a multiple of 8); each later stage doubles them.
        stages: Residual blocks; each but the first halves the picture.
    """

    def __init__(self, shape: Sequence[int] = (1, 28, 28), width: int = 16, stages: int = 3) -> None:
        self.shape = _whole_numbers("shape", shape, _WIDEST, count=3)
        (self.width,) = _whole_numbers("width", [width], _WIDEST, multiple=8)
        (self.stages,) = _whole_numbers("stages", [stages], 8)

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
        channels = [self.width * 2**stage for stage in range(self.stages)]
        blocks: list[nn.Module] = []
        before = channels[0]
        for stage, after in enumerate(channels):
            blocks.append(_Residual(before, after, 1 if stage == 0 else 2))
            before = after
        network = nn.Sequential(
            nn.Unflatten(1, self.shape),
            nn.Conv2d(self.shape[0], channels[0], 3, 1, 1, bias=False),
            nn.GroupNorm(8, channels[0]),
            nn.ReLU(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(before, classes),
        )
        # Channels beside each other: convolutions are a quarter faster on one plane, a tenth on three (docs/log.md).
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types do not know it
        return network
