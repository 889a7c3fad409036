"""Adapters on a frozen transformer beside a closed-form head on its embeddings: accuracy, training, one deletion.

    python benchmarks/bench_adapters.py --backbone FOLDER [--learners head ia3 lda] [--rows N] [--out CSV]

Learns the department of women's reviews (`hybridmu data get reviews`) from their texts alone, some of them drawn by a
seed. FOLDER is of a sentence transformer with a `tokenizer.json`, such as all-MiniLM-L6-v2. One thread, in this
process; a proof by retraining at the end.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

import hybridmu
from benchmarks.study import csvfile
from benchmarks.study.records import environment
from benchmarks.suite.adapters import Result
from hybridmu.core.adapters.backbone_files import weights_of
from hybridmu.core.kernel.model import SubModel
from hybridmu.datasets import catalog
from hybridmu.kinds import FALLBACK, LEARNER_OF_TASK, STRATEGY_OF_LEARNER
from hybridmu.serving.ensemble import Ensemble

_SHARDS, _SLICES = 4, 2
_SINGLE = 3  # deletions of one row, of which the median is told
_ASKED = 32  # rows that answers are timed with


def main() -> None:
    """Measure the learners; one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--learners", nargs="+", default=("head", "ia3", "lda"))
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--out", type=Path, help="a CSV file that lines are appended to")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for learner in asked.learners:
            found = measured(learner, asked.backbone, asked.rows, asked.held_out, asked.epochs, asked.length)
            print(found, flush=True)
            if asked.out:
                csvfile.append(asked.out, [found], Result)


def measured(learner: str, backbone: Path, rows: int, held_out: int, epochs: int, length: int) -> Result:
    """Return the figures of one learner.

    Args:
        learner: A method of adapters, or a closed-form task.
        backbone: Folder of the transformer.
        rows: Training rows.
        held_out: Rows that accuracy is told of.
        epochs: e′ of adapters.
        length: Tokens of a text that adapters read; embeddings read as many as their folder says.
    """
    sums = learner in LEARNER_OF_TASK
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_texts(folder, rows, held_out)
        document = _document(learner, folder, backbone.resolve(), epochs, length)
        with closing(hybridmu.connect(document, executor="local")) as system:
            started = time.perf_counter()
            system.train()
            train_seconds = time.perf_counter() - started
            ensemble = Ensemble.load(system.site, system.registry.version())
            accuracy = system.evaluate()["splits"]["test"]["ensemble"]["accuracy"]
            held, one = _memory(ensemble), next(iter(ensemble.models.values()))[1]
            asked = pq.read_table(folder / "test.parquet").slice(0, _ASKED).to_pylist()
            x = ensemble.encode(asked)
            every, alone = _rate(lambda: ensemble.logits(x)), _rate(lambda: _answered(one, x))
            draw = np.random.default_rng(0)
            strategy = STRATEGY_OF_LEARNER[LEARNER_OF_TASK[learner]] if sums else FALLBACK
            seconds, written = [], []
            for row in draw.choice(rows, _SINGLE, replace=False).tolist():
                before = _blobs(system)
                report = system.forget(ids=[row], strategy=strategy, wait=True)
                seconds.append(report["seconds_to_applied"])
                written.append(sum(size for ref, size in _blobs(system).items() if ref not in before))
            exact = system.verify()["bitwise_equal"]
    trained = sum(tensor.numel() for tensor in one.state_dict().values()) if one is not None else 0
    whole = sum(path.stat().st_size for path in weights_of(backbone))
    return Result(
        run=datetime.now(UTC).isoformat(timespec="seconds"),
        learner=f"{learner} on sentences" if sums else learner,
        rows=rows,
        held_out=held_out,
        shards=len(ensemble.models),
        epochs=0 if sums else epochs,
        length=length,
        trained=trained,
        accuracy=accuracy,
        train_seconds=train_seconds,
        deletion_seconds=statistics.median(seconds),
        deletion_bytes=int(statistics.median(written)),
        held_bytes=held,
        models_bytes=len(ensemble.models) * (whole + 4 * trained),
        answers_per_second=every,
        one_per_second=alone,
        exact=int(exact),
        **environment(),
    )


def _write_texts(folder: Path, rows: int, held_out: int) -> None:
    source = pq.read_table(catalog.resolved(hybridmu.Settings.parse(_reviews(folder))).data.train)
    chosen = np.random.default_rng(0).choice(len(source), rows + held_out, replace=False)
    table = source.select(["review", "department"]).take(pa.array(chosen))
    table = table.append_column("id", pa.array(range(len(table))))
    pq.write_table(table.slice(0, rows), folder / "train.parquet")
    pq.write_table(table.slice(rows), folder / "test.parquet")


def _reviews(folder: Path) -> dict[str, Any]:
    return {"data": {"name": "reviews"}, "storage_url": str(folder / "none")}


def _document(learner: str, folder: Path, backbone: Path, epochs: int, length: int) -> dict[str, Any]:
    classes = sorted({*pq.read_table(folder / "train.parquet")["department"].to_pylist()})
    data = {"train": f"{folder}/train.parquet", "test": f"{folder}/test.parquet", "label": "department"}
    document: dict[str, Any] = {
        "data": data | {"classes": classes},
        "policy": {"retention_seconds": 1e9, "calibrate": False},
        "evaluation": {"every_version": False},
        "cluster": {"address": None, "cpus_per_shard": 1},
        "storage_url": f"{folder}/system",
    }
    if learner in LEARNER_OF_TASK:
        encoder = {"name": "sentences", "folder": str(backbone)}
        return document | {
            "task": {"name": learner, "penalty": 0.1, "levels": 127},
            "features": {"text": {"review": encoder}},
            "sisa": {"min_rows": 0},
        }
    return document | {
        "task": {"name": "adapter", "backbone": str(backbone), "length": length, "method": learner},
        "features": {"text": {"review": {"name": "tokens", "folder": str(backbone), "length": length}}},
        "sisa": {"shards": _SHARDS, "slices": _SLICES, "epochs": epochs, "batch_size": 8, "min_rows": 0},
        "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.0},
    }


def _blobs(system: hybridmu.System) -> dict[str, int]:
    """Return the stored checkpoints and their bytes."""
    shards = range(system.settings.sisa.shards)
    return {ref: size for shard in shards for ref, size in system.site.blobs.sizes(shard).items()}


def _memory(ensemble: Ensemble) -> int:
    """Return the bytes of all tensors that sub-models are made of, each once."""
    found: dict[int, int] = {}
    for _, model in ensemble.models.values():
        for module in model.modules() if model is not None else ():
            inner = getattr(module, "_skeleton", None)
            parts = [module, *([inner.network] if inner is not None else [])]
            found |= {t.data_ptr(): t.nbytes for part in parts for t in (*part.parameters(), *part.buffers())}
    return sum(found.values())


def _rate(answer: Any) -> float:
    """Return rows a second, the better of two trials."""
    answer()
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        answer()
        taken.append(time.perf_counter() - started)
    return _ASKED / min(taken)


@torch.no_grad()
def _answered(model: SubModel | None, x: np.ndarray[Any, Any]) -> None:
    assert model is not None
    model(torch.from_numpy(x))


if __name__ == "__main__":
    main()
