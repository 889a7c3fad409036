"""Values that a configuration leaves out, and what fills them."""

import json

from hypothesis import given
from hypothesis import strategies as st

from hybridmu.config import Settings, completed, left_out

MINIMAL = {"data": {"train": "t.parquet"}, "storage_url": "/tmp/x"}
VALUES = {
    "sisa": {"shards": st.integers(1, 50), "slices": st.integers(1, 9), "epochs": st.integers(1, 99)},
    "optimizer": {
        "name": st.sampled_from(["sgd", "adamw"]),
        "lr": st.floats(0.001, 10),
        "weight_decay": st.floats(0, 1),
    },
    "data": {"standardize": st.booleans(), "scale": st.dictionaries(st.sampled_from("ab"), st.floats(0.1, 9))},
    "task": {"hidden": st.lists(st.integers(1, 9), min_size=1, max_size=3)},
}
SECTIONS = st.fixed_dictionaries({name: st.fixed_dictionaries({}, optional=keys) for name, keys in VALUES.items()})


def parsed(sections):
    filled = {name: keys for name, keys in sections.items() if keys}
    return Settings.parse({**filled, "data": {**sections["data"], "train": "t.parquet"}, "storage_url": "/tmp/x"})


@given(said=SECTIONS, trained=SECTIONS)
def test_what_is_said_stays_and_the_rest_is_as_trained(said, trained):
    settings, known = parsed(said), json.loads(json.dumps(parsed(trained).identity()))
    found = completed(settings, known)
    for section, keys in VALUES.items():
        for key in keys:
            expected = said[section].get(key, known[section].get(key))
            got = getattr(found, section).model_dump(mode="json").get(key)
            assert got == (expected if expected is not None else got)


@given(sections=SECTIONS)
def test_a_system_is_known_again_by_any_part_of_its_configuration(sections):
    known = json.loads(json.dumps(parsed(sections).identity()))
    for kept in (sections, {name: {} for name in sections}):
        assert json.loads(json.dumps(completed(parsed(kept), known).identity())) == known


def test_nothing_is_left_out_once_it_is_completed():
    whole = completed(Settings.parse(MINIMAL), {**parsed({n: {} for n in VALUES}).identity(), "task": {"hidden": [3]}})
    assert left_out(whole) == {}
    assert completed(whole, {"sisa": {"shards": 77}}) == whole


def test_options_of_another_task_are_not_taken():
    settings = Settings.parse({**MINIMAL, "task": {"name": "linear"}})
    assert completed(settings, {"task": {"name": "mlp", "hidden": [3]}}).task.options == {}


def test_as_plain_data_what_is_left_out_stays_so():
    settings = Settings.parse({**MINIMAL, "sisa": {"seed": 3}})
    again = Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json", exclude_unset=True))))
    assert (again, left_out(again)) == (settings, left_out(settings))
