"""Settings that suit the rows of a table."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.config import Settings, completed
from hybridmu.core.kernel.training import slice_epochs
from hybridmu.planning.default_settings import OPTIMIZER, TableFacts, default_settings, recipe

MLP = {"task": {"name": "mlp"}}


def facts(rows, owners=None, **more):
    return TableFacts(rows, rows if owners is None else owners, **more)


@given(rows=st.integers(0, 10**9), people=st.integers(1, 10**7), classes=st.integers(0, 999), own=st.booleans())
def test_they_are_a_valid_configuration_of_shards_with_rows(rows, people, classes, own):
    found = default_settings(facts(rows, people, classes=classes, own=own), MLP)
    raw = {"data": {"train": "t"}, "storage_url": "/tmp/x"}
    settings = Settings.parse({**raw, **{name: {**raw.get(name, {}), **keys} for name, keys in found.items()}})
    assert completed(Settings.parse(raw), found).identity() == settings.identity()
    sisa = settings.sisa
    assert 1 <= sisa.shards <= 8
    assert sisa.shards == 1 or rows // sisa.shards >= max(2_500, 250 * classes)
    assert sisa.shards * sisa.slices <= max(people, 1)
    assert sum(slice_epochs(sisa.epochs, sisa.slices)) >= sisa.slices


@given(rows=st.integers(1, 10**6), people=st.integers(1, 10**4))
def test_few_people_get_slices_that_they_fill(rows, people):
    sisa = default_settings(facts(rows, people), MLP)["sisa"]
    cells = sisa["shards"] * sisa["slices"]
    assert cells == 1 or cells * (1 - 1 / cells) ** people < 0.011


def test_small_tables_take_many_small_steps_and_large_ones_few_epochs():
    found = [default_settings(facts(rows), MLP)["sisa"] for rows in (150, 800, 2_400, 39_000, 1_000_000)]
    assert [one["shards"] for one in found] == [1, 1, 1, 8, 8]
    assert [one["batch_size"] for one in found] == sorted(one["batch_size"] for one in found)
    assert [one["epochs"] for one in found] == sorted((one["epochs"] for one in found), reverse=True)


def test_many_classes_need_more_rows_of_a_shard_and_more_epochs():
    few, many = (default_settings(facts(16_000, classes=classes), MLP)["sisa"] for classes in (3, 26))
    assert (few["shards"], many["shards"]) == (6, 2)
    assert (
        many["epochs"]
        == 2 * default_settings(facts(8_000, classes=3), {**MLP, "sisa": {"shards": 1}})["sisa"]["epochs"]
    )


def test_the_network_suits_what_is_learned():
    def hidden(rows, **known):
        return default_settings(facts(rows, **known), MLP)["task"]["hidden"]

    assert hidden(500) == hidden(500, classes=0) == [128]
    assert hidden(2_000, classes=0) == [128, 128]
    assert (hidden(2_000), hidden(2_000, lists=("signal",))) == ([256, 128], [256])


def test_what_is_said_stays_and_the_rest_goes_with_it():
    said = {"task": {"name": "mlp", "hidden": [7]}, "sisa": {"shards": 40}, "data": {"standardize": False}}
    found = default_settings(facts(10_000), said)
    assert found["task"]["hidden"] == [7]
    assert found["data"]["standardize"] is False
    assert found["sisa"] == {"shards": 40, "slices": 4, "epochs": 100, "batch_size": 8}  # 250 rows each


def test_the_chosen_optimizer_is_one_that_can_be_said():
    optimizer = default_settings(facts(10_000), MLP)["optimizer"]
    assert optimizer["name"] == OPTIMIZER
    assert recipe({"name": OPTIMIZER})["lr"] == optimizer["lr"]
    assert recipe({"name": "sgd"}) == recipe({"lr": 0.05}) == {}


def test_every_serving_group_gets_a_sub_model():
    assert default_settings(facts(100), MLP, 3)["sisa"]["shards"] == 3


@pytest.mark.parametrize("name", ["linear", "cnn", "nets:Net"])
def test_only_layers_that_a_task_has_get_a_width(name):
    assert "hidden" not in default_settings(facts(100), {"task": {"name": name}})["task"]


def test_bytes_are_scaled_and_nothing_of_the_users_own_is_touched():
    picture = {"features": ("picture",), "lists": ("picture",), "pixels": ("picture",)}
    assert default_settings(facts(100, **picture), MLP)["data"] == {"standardize": False, "scale": {"picture": 1 / 255}}
    theirs = default_settings(facts(100, **picture, own=False), MLP)["data"]
    assert theirs == {"standardize": False, "scale": {}}


def test_columns_are_standardised_unless_all_of_them_are_scaled():
    def data(scale=None, pixels=()):
        known = facts(100, features=("a", "b"), pixels=pixels)
        return default_settings(known, {**MLP, "data": {} if scale is None else {"scale": scale}})["data"]

    assert data() == {"standardize": True, "scale": {}}
    assert data(pixels=("b",)) == {"standardize": True, "scale": {}}
    assert data({"a": 0.5}) == {"standardize": True, "scale": {"a": 0.5}}
    assert data({"a": 0.5, "b": 2.0}) == {"standardize": False, "scale": {"a": 0.5, "b": 2.0}}


@pytest.mark.parametrize(
    ("known", "shards", "slices"),
    [
        (facts(1_000), 1, 1),
        (facts(16_383), 1, 1),
        (facts(100_000), 1, 12),
        (facts(100_000, owners=50), 1, 7),
        (facts(10**8), 8, 256),
    ],
)
def test_sums_have_slices_so_that_few_rows_are_hashed_again(known, shards, slices):
    found = default_settings(known, {"task": {"name": "lda"}})["sisa"]
    assert (found["shards"], found["slices"]) == (shards, slices)


def test_sums_need_no_epochs_and_columns_within_one():
    largest = {"age": 90.0, "gain": 99_999.0, "p": 0.25, "none": 0.0, "pixels": 255.0, "tiny": 1e-310, "huge": 1e300}
    known = facts(1_200_000, largest=largest)
    found = default_settings(replace(known, pixels=("pixels",)), {"task": {"name": "lda"}})
    assert found["sisa"] == {"shards": 2, "slices": 73, "epochs": 1, "batch_size": 1}
    scale = {"age": 2.0**-7, "gain": 2.0**-17, "p": 4.0, "none": 1.0, "pixels": 1 / 255}
    scale |= {"tiny": 2.0**126, "huge": 2.0**-128}
    assert found["data"] == {"standardize": False, "scale": scale}
    assert default_settings(facts(100), {"task": {"name": "lda"}, "sisa": {"slices": 3}}, 4)["sisa"]["shards"] == 4


def test_networks_for_pictures_get_more_rows_and_epochs():
    found = default_settings(facts(50_000, classes=10, pixels=("p",), features=("p",)), {"task": {"name": "resnet"}})
    assert found["sisa"] == {"shards": 4, "slices": 4, "epochs": 40, "batch_size": 64}
    assert (found["optimizer"]["lr"], found["optimizer"]["weight_decay"]) == (0.002, 0.05)
    assert found["data"] == {"standardize": False, "scale": {"p": 1 / 255}}
    assert default_settings(facts(3_000), {"task": {"name": "resnet"}})["sisa"]["shards"] == 1
