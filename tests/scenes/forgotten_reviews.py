"""The demo's story on made-up reviews, without Ray: a real training, real deletions, real answers over HTTP."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from hybridmu.config import DataSettings, Settings
from hybridmu.demo.by_network import by_network
from hybridmu.demo.by_sums import while_served
from hybridmu.demo.load import Clients
from hybridmu.demo.person import asked_of, chosen
from hybridmu.demo.reviews import Asked, asked, network_settings, sums_settings
from hybridmu.demo.screen import Phases, phases
from hybridmu.demo.story import holds
from hybridmu.demo.timed_deletions import train
from hybridmu.system.system import System

_WORDS = {
    "Dresses": "dress hem knee waist floral",
    "Bottoms": "denim pockets zip leg blue",
    "Tops": "blouse sleeve collar button cuffs",
}
_COMMON = "love the fit size colour wear nice"


def quiet(width: int = 200) -> Console:
    """Return a console that nobody sees."""
    return Console(file=io.StringIO(), width=width)


def make_reviews(folder: Path, rows: int = 600) -> None:
    """Write `train.parquet` and `test.parquet` of the form that the demo's dataset has."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for name, ids in (("train", range(rows)), ("test", range(rows, rows + 120))):
        labels = draw.choice([*_WORDS], len(ids))
        texts = [" ".join(draw.choice(f"{_WORDS[label]} {_COMMON} {_COMMON}".split(), 14)) for label in labels]
        columns = {"age": draw.integers(18, 80, len(ids)), "rating": draw.integers(1, 6, len(ids))}
        made = pa.table({**columns, "review": texts, "department": labels, "id": np.array(ids)})
        pq.write_table(made, folder / f"{name}.parquet")


def on(settings: Settings, tables: Path) -> Settings:
    """Return one of the demo's configurations, for made-up reviews."""
    said = settings.data.model_dump(exclude_unset=True, exclude={"name"})
    names = {split: str(tables / f"{split}.parquet") for split in ("train", "test")}
    data = DataSettings.model_validate({**said, **names, "label": "department"})
    return settings.model_copy(update={"data": data})


@contextmanager
def server(answer: Callable[[], tuple[int, str]]) -> Iterator[str]:
    """Run an HTTP server that answers every POST alike.

    Yields:
        Its address.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, text = answer()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}/v1/predict"
    finally:
        running.shutdown()
        running.server_close()


@contextmanager
def sums(folder: Path, bar: Phases) -> Iterator[tuple[System, Asked, dict[str, Any]]]:
    """Train the closed-form model on made-up reviews.

    Yields:
        The system, who asks to be forgotten, and what the training took.
    """
    make_reviews(folder)
    with System(on(sums_settings(folder), folder), "local") as system:
        training = train(system, bar, "sums")
        yield system, asked(system.settings, partial(chosen, system)), training


def told(folder: Path) -> dict[str, Any]:
    """Return the demo's report, of small systems in a folder."""
    with phases(quiet()) as bar:
        with sums(folder, bar) as (system, people, training):
            lock, rows = threading.Lock(), asked_of(system, people.rows)

            def answer() -> tuple[int, str]:
                with lock:  # a small server that answers one at a time
                    return 200, json.dumps(system.predict(rows))

            with server(answer) as address:
                clients = Clients(address, b"{}")
                clients.wait()
                first = {"training": training, **while_served(system, bar, people, clients)}
        with System(on(network_settings(folder), folder), "local") as system:
            second = by_network(system, bar, people)
    report = {"sums": first, "network": second, "check": "hybridmu certificate verify 00000001.json"}
    return {"ok": holds(report), **report, "seconds": 1.0, "phases": bar.seconds}
