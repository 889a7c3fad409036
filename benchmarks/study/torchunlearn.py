"""The same forgetting by torchunlearn's SISA, from a checkout of its source, beside ours in the benchmark of peers.

torchunlearn (github.com/Harry24k/machine-unlearning-pytorch, MIT) is the library with a SISA of shards, slices and
checkpoints that can be run. The release on the package index lacks it, so the one file is loaded from a checkout; the
training function is the user's to write there, and is the plain loop of PyTorch's tutorials here.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset, TensorDataset

_FILE = Path("torchunlearn/unlearn/nontrainers/sisa.py")


class Peer:
    """A trained SISA ensemble of torchunlearn: MLP, shards and slices of rows in their order, one thread."""

    def __init__(
        self,
        checkout: Path,
        x: torch.Tensor,
        y: torch.Tensor,
        *,
        hidden: int,
        shards: int,
        epochs: Sequence[int],
        batch_size: int,
        lr: float,
        folder: Path,
    ) -> None:
        """Train.

        Args:
            checkout: Source of torchunlearn.
            x: (rows, features), float32.
            y: (rows,), class numbers.
            hidden: Width of the hidden layer.
            shards: S.
            epochs: Of each slice, as ours has them.
            batch_size: Rows in a step.
            lr: Of SGD.
            folder: For its checkpoints.

        Raises:
            FileNotFoundError: The checkout has no SISA.
        """
        sisa = _load(checkout)
        self._epochs, self._lr = epochs, lr
        self._forgotten: set[int] = set()
        self._seen_again = False
        self.tainted = 0
        data = TensorDataset(x, y)
        size, classes = len(y) // shards, int(y.max()) + 1

        def fresh() -> nn.Module:
            return nn.Sequential(nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, classes))

        protocol = sisa.SISATrainingProtocol(fresh, shards, len(epochs), str(folder), self._train, torch.device("cpu"))
        models = protocol.train(data, batch_size=batch_size)
        owned = [list(range(shard * size, (shard + 1) * size)) for shard in range(shards)]
        self._unlearner = sisa.SISAUnlearner(protocol, models, owned, data, self._train, batch_size)

    def forget(self, rows: Sequence[int]) -> float:
        """Return the seconds that a request takes; `tainted` counts those that trained on rows forgotten before."""
        self._seen_again = False
        started = time.perf_counter()
        self._unlearner.unlearn(rows)
        seconds = time.perf_counter() - started
        self._forgotten |= set(rows)
        self.tainted += self._seen_again
        return seconds

    def _train(self, model: nn.Module, loader: DataLoader[Any], _: int, slice_: int) -> nn.Module:
        held = loader.dataset
        assert isinstance(held, Subset)
        self._seen_again |= not self._forgotten.isdisjoint(held.indices)
        optimizer = torch.optim.SGD(model.parameters(), lr=self._lr)
        for _ in range(self._epochs[slice_]):
            for x, y in loader:
                optimizer.zero_grad()
                functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return model


def measure(peer: Peer, requests: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, dict[str, float]]:
    """Return case → mean seconds of its requests, and the share of them that trained on rows forgotten before."""
    found = {}
    for case, every in requests.items():
        before = peer.tainted
        seconds = [peer.forget(rows) for rows in every]
        found[case] = {
            "peer_seconds": sum(seconds) / len(seconds),
            "peer_tainted": (peer.tainted - before) / len(every),
        }
    return found


def _load(checkout: Path) -> Any:
    path = checkout / _FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: give a checkout of Harry24k/machine-unlearning-pytorch")
    spec = importlib.util.spec_from_file_location("torchunlearn_sisa", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
