"""Frozen transformers of this process: each is loaded once, and all sub-models use the same tensors of it.

Adapters are put into a copy of the *modules* alone (`peft`: Mangrulkar et al.): their tensors are those of the one
backbone, and what is trained is brought along by each sub-model at every call. (IA)³ (arXiv 2205.05638) scales keys,
values and the inner activation of the feed-forward layers; LoRA (arXiv 2106.09685) adds products of low rank to queries
and values.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from hybridmu.core.adapters import backbone_files
from hybridmu.core.adapters.backbone_files import Shape
from hybridmu.core.adapters.token_codes import NONE
from hybridmu.errors import ConfigError
from hybridmu.extras import extra

IA3, LORA, HEAD = "ia3", "lora", "head"
_ADAPTER = "default"  # peft's name of the only one
_SCALED = r".*layer\.\d+\.(attention\.self\.(key|value)|output\.dense)"
_FEED_FORWARD = r".*layer\.\d+\.output\.dense"
_RANKED = r".*layer\.\d+\.attention\.self\.(query|value)"
_KEPT = 4  # backbones, and forms of them, at once
_AT_ONCE = 128  # rows whose activations are in memory; MiniLM's take 15 MB a row of 64 tokens where gradients follow
# Loading and making forms goes one after the other, or two threads would hold a copy each.
_loading = threading.Lock()


@dataclass(frozen=True)
class Form:
    """A backbone with places for adapters.

    Attributes:
        folder: Of the backbone.
        digest: Of the folder's files.
        method: `ia3`, `lora`, or `head` for none.
        rank: Of LoRA; 0 otherwise.
        dropout: Share of activations that training leaves out.
    """

    folder: str
    digest: str
    method: str
    rank: int
    dropout: float


class Skeleton:
    """The modules of a form, over tensors that all forms of a backbone share.

    It belongs to no sub-model: none registers it, copies it, or saves it.

    Args:
        shape: Of the backbone.
        network: With adapters put in.
        initial: Draws fresh adapters, name → tensor.
    """

    def __init__(self, shape: Shape, network: nn.Module, initial: Callable[[nn.Module], dict[str, Tensor]]) -> None:
        self.shape = shape
        self._networks = {torch.device("cpu"): network}
        self._initial = initial
        # A call puts a sub-model's tensors into the modules for a moment; another thread may be calling with others.
        self._alone = threading.Lock()

    def __deepcopy__(self, _: dict[int, Any]) -> Skeleton:
        """Return itself: a copied sub-model uses the same backbone."""
        return self

    @property
    def network(self) -> nn.Module:
        """Return the modules on the CPU, for those who look at them."""
        return self._networks[torch.device("cpu")]

    def initial(self) -> dict[str, Tensor]:
        """Return fresh adapters, name → float32, drawn from torch's global generator."""
        with self._alone:
            return self._initial(self.network)

    def pooled(self, numbers: Tensor, adapter: Mapping[str, Tensor], *, training: bool) -> Tensor:
        """Return the mean of the last vectors of a text's tokens; of many texts some at a time, to bound memory.

        Args:
            numbers: int64 [n, length], `NONE` where there is no token.
            adapter: Name → tensor, as `initial` names them.
            training: Whether activations are left out.

        Returns:
            float32 [n, width]; zeros for a text without a token.
        """
        if len(numbers) <= _AT_ONCE:
            return self._pooled(numbers, adapter, training)
        parts = torch.split(numbers, _AT_ONCE)
        if torch.is_grad_enabled() and adapter:  # computed again where gradients need them
            from torch.utils.checkpoint import checkpoint

            made = [checkpoint(self._pooled, part, adapter, training, use_reentrant=False) for part in parts]
        else:
            made = [self._pooled(part, adapter, training) for part in parts]
        return torch.cat(made)

    def _pooled(self, numbers: Tensor, adapter: Mapping[str, Tensor], training: bool) -> Tensor:
        there = numbers != NONE
        filled = torch.where(there, numbers, self.shape.padding)
        given = {"input_ids": filled, "attention_mask": there.long()}
        with self._alone:
            network = self._on(numbers.device)
            if network.training != training:
                network.train(training)
            found = torch.func.functional_call(network, dict(adapter), kwargs=given, tie_weights=False)
        weights = there[:, :, None].to(found.last_hidden_state.dtype)
        total: Tensor = (found.last_hidden_state * weights).sum(dim=1)
        return total / weights.sum(dim=1).clamp(min=1)

    def _on(self, device: torch.device) -> nn.Module:
        if device not in self._networks:
            self._networks[device] = copy.deepcopy(self.network).to(device)
        return self._networks[device]


def skeleton_of(form: Form) -> Skeleton:
    """Return the skeleton of a form; the same one for every sub-model of this process.

    Args:
        form: What it is of.

    Raises:
        ConfigError: The folder is no backbone, or another one than the digest says.
        MissingExtraError: A package that it takes is not installed.
    """
    with _loading:
        return _skeleton(form)


@lru_cache(_KEPT)
def _skeleton(form: Form) -> Skeleton:
    shape, backbone = _backbone(form.folder, form.digest)
    # New modules, and in them the very tensors.
    memo: dict[int, Any] = {id(each): each for each in (*backbone.parameters(), *backbone.buffers())}
    network = copy.deepcopy(backbone, memo)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = form.dropout
    if form.method == HEAD:
        return Skeleton(shape, network, lambda _: {})
    with extra("adapters"):
        from peft import IA3Config, LoraConfig, inject_adapter_in_model
    with torch.random.fork_rng(devices=[]):
        network = inject_adapter_in_model(
            IA3Config(target_modules=_SCALED, feedforward_modules=_FEED_FORWARD)
            if form.method == IA3
            else LoraConfig(
                target_modules=_RANKED, r=form.rank, lora_alpha=2 * form.rank, lora_dropout=form.dropout, bias="none"
            ),
            network,
            _ADAPTER,
        )
    network.requires_grad_(False)
    return Skeleton(shape, network.eval(), _drawn_scales if form.method == IA3 else _drawn_products)


def _drawn_scales(network: nn.Module) -> dict[str, Tensor]:
    found = {name: tensor for name, tensor in network.named_parameters() if ".ia3_l." in name}
    return {name: torch.ones_like(tensor) for name, tensor in found.items()}


def _drawn_products(network: nn.Module) -> dict[str, Tensor]:
    layers: list[Any] = [module for module in network.modules() if hasattr(module, "reset_lora_parameters")]
    for layer in layers:
        layer.reset_lora_parameters(_ADAPTER, True)
    found = {name: tensor for name, tensor in network.named_parameters() if ".lora_" in name}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


@lru_cache(_KEPT)
def _backbone(folder: str, digest: str) -> tuple[Shape, nn.Module]:
    """Return a backbone, frozen, on the CPU.

    Args:
        folder: Where it lies.
        digest: Of its files.

    Raises:
        ConfigError: It can't be loaded, lacks weights, or is another one by now.
    """  # noqa: DOC501 - a function makes it
    shape = backbone_files.shape_of(folder)
    path = backbone_files.checked_folder(folder)
    said = backbone_files.said_of(path)
    with extra("adapters"):
        from safetensors.torch import load_file
        from transformers import AutoConfig, AutoModel
    try:
        weights = {name: tensor for file in backbone_files.weights_of(path) for name, tensor in load_file(file).items()}
        with torch.random.fork_rng(devices=[]):  # weights are drawn, and then replaced
            config = AutoConfig.for_model(**{**said, "is_decoder": False})
            network: nn.Module = AutoModel.from_config(
                config,
                trust_remote_code=False,
                attn_implementation="eager",
                dtype=torch.float32,
                add_pooling_layer=False,
            )
        own = network.state_dict()
        prefix = f"{network.base_model_prefix}."
        found = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
        lacking = sorted(own.keys() - found.keys())
        if not lacking:
            network.load_state_dict({name: found[name] for name in own})
    except ConfigError:
        raise
    except Exception as error:  # the libraries raise of every kind what a damaged folder makes them
        raise backbone_files.wrong("can't be loaded", got=f"{type(error).__name__}: {error}"[:300]) from None
    if lacking:
        raise backbone_files.wrong("lacks weights", got=f"no {', '.join(lacking[:3])} of {len(own)} tensors")
    if not all(bool(tensor.isfinite().all()) for tensor in network.parameters()):
        raise backbone_files.wrong("has weights that are no numbers", got="NaN or infinity")
    if backbone_files.digest_of_files(folder) != digest:
        raise backbone_files.wrong("changed while it was read", got="files of two models")
    return shape, network.requires_grad_(False).eval()
