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
    """Retained rows of the shard as (slice, id digest, features, outcome), in canonical order within each slice."""
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
            target = data.get("target")
            outcome = float(row[target]) if target else data["classes"].index(row[data["label"]])
            found.append((before + word(place[8:]) % slices + 1, own, x, outcome))
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
    number = "target" in config["data"]
    widths = [len(rows[0][2]), *config["task"]["hidden"], 1 if number else len(config["data"]["classes"])]
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    model = nn.Sequential(*layers)
    scale = scale_of([r[3] for r in rows if r[0] == rows[0][0]]) if number else ()
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
                right = torch.tensor([r[3] for r in batch], dtype=torch.float32 if number else torch.int64)
                loss = functools.partial(distance, config["task"], scale) if number else nn.functional.cross_entropy
                loss(logits, right).backward()
                optimizer.step()
                done += 1
    return [*(p.detach() for p in model.parameters()), *scale]


def scale_of(targets):
    """Mean and deviation of the targets of the first slice that holds any, computed in double precision."""
    wide = torch.tensor(targets, dtype=torch.float32).to(torch.float64)
    mean, deviation = wide.mean(), wide.std(correction=0)
    return mean.float(), (deviation if deviation > 0 else torch.tensor(1.0)).float()


def distance(task, scale, z, targets):
    """Mean loss of the residuals, in units of the deviation."""
    mean, deviation = scale
    r = (z[:, 0] * deviation + mean - targets) / deviation
    if task.get("loss") == "huber":
        return nn.functional.huber_loss(r, torch.zeros_like(r), delta=task.get("delta", 1.0))
    if task.get("loss") == "quantile":
        q = task.get("quantile", 0.5)
        return torch.max(-q * r, (1 - q) * r).mean()
    return (r**2).mean()
