"""EfficientNet-Lite0: its shape, and what its features are good for."""

import numpy as np
import pytest
import torch

from hybridmu.core.features import efficientnet
from hybridmu.core.features.efficientnet import EfficientNet, Network
from hybridmu.errors import ConfigError, MissingExtraError


@pytest.fixture(scope="module")
def state():
    return torch.load(efficientnet._weights(), weights_only=True)


def test_every_published_weight_has_its_place_and_its_shape(state):
    """Left over are the last layer, what names ImageNet's classes, and counters."""
    used = set()

    class Seen(dict):
        def __getitem__(self, name):
            used.add(name)
            return super().__getitem__(name)

    Network(Seen(state))
    assert {name for name in state if name not in used} == {
        "_fc.weight",
        "_fc.bias",
        "_conv_head.weight",
        *(name for name in state if name.startswith("_bn1.") and not name.endswith("num_batches_tracked")),
        *(name for name in state if name.endswith("num_batches_tracked")),
    }


def test_a_layer_is_a_convolution_its_normalisation_and_a_rectifier(state):
    x = torch.randn(2, 3, 8, 6)
    found = efficientnet._Convolution(state, "_conv_stem", "_bn0", 2, 1, True)(x)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))
    plain = torch.nn.functional.conv2d(padded, state["_conv_stem.weight"], stride=2)
    plain = torch.nn.functional.batch_norm(
        plain,
        *(state[f"_bn0.{name}"] for name in ("running_mean", "running_var", "weight", "bias")),
        eps=1e-3,
    )
    assert torch.allclose(found, plain.clamp(0, 6), atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (97, 33)])
def test_pictures_of_any_size_have_features(shape):
    found = EfficientNet(side=32).encode([np.zeros((*shape, 3), np.uint8), np.full((*shape, 3), 200, np.uint8)])
    assert (found.shape, found.dtype) == ((2, 1824), np.int8)
    assert found.min() >= 0
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize("side", [0, 31, 513, True, "64", None])
def test_a_side_out_of_range_is_refused(side):
    with pytest.raises(ConfigError, match="side"):
        EfficientNet(side=side)


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="efficientnet") as caught:
        _ = EfficientNet().digest
    assert "hybridmu[image]" in caught.value.remedy
