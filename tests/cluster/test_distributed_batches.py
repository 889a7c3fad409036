"""A batch shared by processes: the bits of one process, whichever way the model is held."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from hybridmu.cluster import distributed_batches
from hybridmu.core.kernel.training import Recipe, _here, make_step
from hybridmu.task import CrossEntropyTask

FEATURES, CLASSES = 7, 3


class Tied(nn.Module):
    """Two layers with one weight, a frozen one, and a parameter that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(FEATURES, 5), nn.Linear(FEATURES, 5), nn.Linear(5, CLASSES)])
        self.layers[1].weight = self.layers[0].weight
        self.layers[2].bias.requires_grad_(False)
        self.spare = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, head = self.layers
        return head(first(x).relu() + second(x).tanh())


class Blocks(nn.Module):
    """A list of lists of layers."""

    def __init__(self) -> None:
        super().__init__()
        pairs = [(FEATURES, 6), (6, FEATURES)], [(FEATURES, 4), (4, CLASSES)]
        self.blocks = nn.ModuleList(nn.ModuleList(nn.Linear(*shape) for shape in block) for block in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for first, second in self.blocks:
            x = second(first(x).relu())
        return x


def nested() -> nn.Module:
    inner = nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3), nn.ReLU())
    return nn.Sequential(nn.Linear(FEATURES, 5), nn.Dropout(0.3), nn.ReLU(), inner, nn.Linear(3, CLASSES))


class FiveSteps(CrossEntropyTask):
    def model(self, features: int, classes: int) -> nn.Module:
        return nested()


Case = tuple[str, str, dict[str, Any]]
CASES: dict[int, list[Case]] = {
    2: [
        ("ddp", "nested", {"optimizer": "adamw"}),
        ("ddp", "tied", {"extrapolation": 0.5}),
        ("fsdp2", "nested", {"optimizer": "adamw"}),
        ("fsdp2", "tied", {"momentum": 0.9}),
        ("fsdp2", "blocks", {"momentum": 0.5}),
    ],
    3: [
        ("ddp", "nested", {"extrapolation": 0.7, "momentum": 0.9}),
        ("fsdp2", "nested", {"momentum": 0.9, "weight_decay": 0.01, "precision": "bfloat16"}),
    ],
}


def fit(across: Any, model: str, options: dict[str, Any], parts: int) -> tuple[torch.Tensor, int]:
    """Return all weights after a few batches, one of them of a single row, and how many this process held."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = {"nested": nested, "tied": Tied, "blocks": Blocks}[model]().train()
    recipe = Recipe((1,), 4, 0, parts=parts, **options)
    torch.manual_seed(5)
    with across(network, FiveSteps(), recipe) as (parameters, gradients):
        step, held = make_step(parameters, recipe), sum(parameter.numel() for parameter in parameters)
        for batch in range(5):
            draw = torch.Generator().manual_seed(batch)
            x = torch.randn(1 if batch == 3 else 11, FEATURES, generator=draw)
            step(gradients(x, torch.randint(0, CLASSES, (len(x),), generator=draw), 0.1), 0.1)
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]), held


def process(rank: int, processes: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    for number, (way, model, options) in enumerate(CASES[processes]):
        torch.save(
            fit(getattr(distributed_batches, way), model, options, processes), Path(folder) / f"{number}-{rank}.pt"
        )
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", sorted(CASES))
@pytest.mark.sampled
def test_processes_have_the_bits_of_one(tmp_path: Path, processes: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(process, (processes, port, str(tmp_path)), nprocs=processes)
    for number, (way, model, options) in enumerate(CASES[processes]):
        found = [torch.load(tmp_path / f"{number}-{rank}.pt") for rank in range(processes)]
        alone, whole = fit(_here, model, options, processes)
        untouched, _ = fit(_here, model, {"precision": "float32"}, processes)
        assert not torch.equal(alone, untouched), (way, model, options)  # what is compared depends on the options
        for weights, _ in found:
            assert torch.equal(weights, alone), (way, model, options)
        # Every process holds all of it, or together they hold it once.
        held = [each for _, each in found]
        assert held == [whole] * processes if way == "ddp" else sum(held) == whole > max(held), (way, model, held)
