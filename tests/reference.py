"""An independent SISA trainer for one shard: reads the source table, shares no code with hybridmu."""

import functools
import hashlib
import itertools

import pyarrow.parquet as pq
import torch
from torch import nn


def h(data: bytes, size: int, **keyed: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=size, **keyed).digest()


word = functools.partial(int.from_bytes, byteorder="little")


def mix(x: int) -> int:
    m = 2**64 - 1
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & m
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & m
    return x ^ (x >> 31)


def live_rows(path, config, shard, forgotten_ids, forgotten_groups, slices=None, before=0):
    """Retained rows of the shard as (slice, id digest, features, label), in canonical order within each slice."""
    form = lambda value: (b"i%d" % value) if isinstance(value, int) else b"s" + value.encode()  # noqa: E731
    data, sisa = config["data"], config["sisa"]
    slices = slices or sisa["slices"]
    key = h(f"hybridmu/partition/{sisa['seed']}".encode(), 32)
    found = []
    for row in pq.read_table(path).to_pylist():
        group = row.get(data.get("group") or "")
        if row[data["id"]] in forgotten_ids or (group is not None and group in forgotten_groups):
            continue
        own = h(form(row[data["id"]]), 16, key=key, person=b"id")
        place = own if group is None else h(form(group), 16, key=key, person=b"group")
        if word(place[:8]) % sisa["shards"] == shard:
            x = [float(row[name]) for name in data["features"]]
            found.append((before + word(place[8:]) % slices + 1, own, x, data["classes"].index(row[data["label"]])))
    return sorted(found, key=lambda r: (r[0], r[1]))


def train(path, config, shard, forgotten_ids=(), forgotten_groups=(), later=()):
    """Train the shard from scratch without the forgotten rows; a list of tensors, or None when no row is left.

    `later` is the history of the table after its first part: (path, slices, epochs of each) of every ingestion.
    """
    torch.set_num_threads(1)
    sisa, opt = config["sisa"], config["optimizer"]
    seed, first, size = sisa["seed"], sisa["slices"], sisa["batch_size"]
    ends = [(4 * sisa["epochs"] * i + first + 1) // (2 * (first + 1)) for i in range(first + 1)]
    schedule, rows = [], []
    for table, slices, each in ((path, first, None), *later):
        gone = set(forgotten_ids), set(forgotten_groups)
        rows += live_rows(table, config, shard, *gone, slices, len(schedule))
        schedule += [each] * slices if each else [max(1, b - a) for a, b in itertools.pairwise(ends)]
    if not rows:
        return None
    torch.manual_seed(word(h(f"init/{seed}/{shard}".encode(), 8)) >> 1)
    widths = [len(rows[0][2]), *config["task"]["hidden"], len(config["data"]["classes"])]
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    model = nn.Sequential(*layers)
    for s, epochs in enumerate(schedule, start=1):
        seen = [r for r in rows if r[0] <= s]
        if s > first and not any(r[0] == s for r in rows):
            continue  # a later slice that holds nothing here
        starts = list(range(0, len(seen), size))
        if len(starts) > 1 and len(seen) - starts[-1] == 1:
            starts.pop()
        decay = opt.get("weight_decay", 0.0)
        if opt["name"] == "sgd":
            optimizer = torch.optim.SGD(model.parameters(), opt["lr"], opt.get("momentum", 0.0), weight_decay=decay)
        else:
            optimizer = torch.optim.AdamW(model.parameters(), lr=opt["lr"], weight_decay=decay)
        done, total = 0, epochs * len(starts)
        for e in range(epochs):
            salt = word(h(f"order/{seed}/{shard}/{s}/{e}".encode(), 8))
            order = sorted(seen, key=lambda r: mix(word(r[1][:8]) ^ salt))
            for start, stop in zip(starts, [*starts[1:], len(seen)], strict=False):
                batch = order[start:stop]
                if opt.get("schedule", "linear") == "linear":
                    optimizer.param_groups[0]["lr"] = opt["lr"] * (1 - done / total)
                optimizer.zero_grad()
                logits = model(torch.tensor([r[2] for r in batch], dtype=torch.float32))
                nn.functional.cross_entropy(logits, torch.tensor([r[3] for r in batch])).backward()
                optimizer.step()
                done += 1
    return [p.detach() for p in model.parameters()]
