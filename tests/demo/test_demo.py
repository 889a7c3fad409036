"""The demo's story on made-up reviews, without Ray; what it prints, and its page."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hybridmu.demo import ending
from hybridmu.demo.ending import certificate_page, certificates, purge, rows_left
from hybridmu.demo.load import Clients
from hybridmu.demo.person import asked_of, chosen, compared
from hybridmu.demo.reviews import Asked, network_settings, sums_settings
from hybridmu.demo.screen import Phases, phases, show
from hybridmu.demo.story import holds, run_demo
from hybridmu.demo.timed_deletions import forget
from hybridmu.errors import ConfigError, CorruptBlobError
from hybridmu.report.demo_page import headline, page
from hybridmu.system.system import System
from tests.scenes import forgotten_reviews as scene

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return scene.told(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[System, Asked, Phases]]:
    with phases(scene.quiet()) as bar, scene.sums(tmp_path, bar) as (system, people, _):
        yield system, people, bar


def spoiled(report: dict[str, Any], part: tuple[Any, ...], value: object) -> dict[str, Any]:
    made = copy.deepcopy(report)
    inner: Any = made
    for name in part[:-1]:
        inner = inner[name]
    inner[part[-1]] = value
    return {**made, "ok": holds(made)}


def printed(report: dict[str, Any], folder: Path) -> str:
    console = scene.quiet()
    show(console, report, folder)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


# ---------------------------------------------------------------------- what happens


def test_a_person_and_many_leave_both_models_and_everything_is_purged(story: dict[str, Any]) -> None:
    assert holds(story)
    sums, network = story["sums"], story["network"]
    one, more = sums["deletions"]
    assert (one["rows"], more["name"]) == (1, f"{more['rows']} people at once")
    assert 5 <= more["rows"] <= 6  # one in a hundred of 600, perhaps without the person
    assert {each["strategies"] for each in sums["deletions"]} == {"1 subtract"}
    assert all(each["proof"]["bitwise_equal"] and each["proof"]["gaps"] is None for each in sums["deletions"])
    retrained, updated = network["deletions"]
    assert retrained["strategies"] == "1 retrain"
    assert "dpus-optimised" in updated["strategies"]
    low, high = network["gap"]["gaps"]
    assert low <= high
    assert network["proof"]["bitwise_equal"]
    for part in (sums, network):
        assert (part["purge"]["rows_before"], part["purge"]["rows_after"]) == (1 + more["rows"], 0)


def test_the_same_row_was_asked_about_before_and_after(story: dict[str, Any]) -> None:
    sums = story["sums"]
    first, *others = sums["answers"]
    assert first["row"] == sums["person"]
    assert first["before"]["label"] == first["label"], "the person was chosen among those who are answered right"
    assert first["after"]["of_right"] < first["before"]["of_right"], "a model knows less of whom it never saw"
    assert len(others) == 3
    assert all(answer["row"]["id"] >= 600 for answer in others)
    assert {1, 2} <= set(sums["serving"]["versions"])


def test_every_request_has_a_certificate_with_its_times_in_order(story: dict[str, Any]) -> None:
    for part in (story["sums"], story["network"]):
        assert [entry["name"] for entry in part["certificates"]] == [each["name"] for each in part["deletions"]]
        for entry in part["certificates"]:
            times = [entry[f"seconds_to_{moment}"] for moment in ("applied", "served", "exact", "purged")]
            assert 0 < times[0] <= times[1] < times[3]
            assert times[0] <= times[2] < times[3]
            assert entry["deadline_kept"] is True
    one, many = story["network"]["certificates"]
    assert one["proofs"] == 1
    assert "dpus-optimised -> retrain" in many["removal"]
    assert many["seconds_to_exact"] > many["seconds_to_applied"]


def test_from_scratch_is_reading_and_training(story: dict[str, Any]) -> None:
    for part in (story["sums"], story["network"]):
        found = part["training"]
        assert found["scratch_seconds"] == found["reading_seconds"] + found["training_seconds"]
        assert min(found["reading_seconds"], found["training_seconds"]) > 0
        assert (found["rows"]["train"], found["rows"]["test"]) == (600, 120)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("sums", "deletions", 0, "proof", "bitwise_equal"), False),
        (("sums", "answers"), []),
        (("sums", "serving", "failures"), 1),
        (("sums", "serving", "last_version"), 1),
        (("sums", "purge", "not_purged"), ["legal hold 1"]),
        (("sums", "purge", "rows_before"), 0),
        (("sums", "certificates"), []),
        (("network", "gap", "exact_claims_hold"), False),
        (("network", "proof", "bitwise_equal"), False),
        (("network", "purge", "rows_after"), 1),
        (("network", "certificates", 0, "chain"), False),
        (("network", "certificates", 1, "checks_held"), 3),
        (("network", "certificates", 1, "deadline_kept"), False),
    ],
)
def test_one_thing_that_does_not_hold_is_enough(
    story: dict[str, Any], part: tuple[Any, ...], value: object, tmp_path: Path
) -> None:
    wrong = spoiled(story, part, value)
    assert holds(story)
    assert not wrong["ok"]
    assert "BUT SOMETHING DID NOT HOLD" in printed(wrong, tmp_path)
    assert '<p class="banner bad">' in page(wrong)


def test_the_person_is_the_one_whose_answer_hangs_most_on_the_row(small: tuple[System, Asked, Phases]) -> None:
    system, people, _ = small
    rows = pq.read_table(system.settings.data.train).to_pylist()

    def lead(row: dict[str, Any]) -> float:
        (answer,) = system.predict(asked_of(system, [row]))["predictions"]
        others = [value for name, value in answer["probabilities"].items() if name != row["department"]]
        return float(answer["probabilities"][row["department"]] - max(others))

    leads = {row["id"]: lead(row) for row in rows[:100]}
    picked = chosen(system, rows[:100])
    assert leads[picked["id"]] == min(value for value in leads.values() if value >= 0)
    wrong = [row for row in rows[:300] if lead(row) < 0]
    assert chosen(system, wrong[:1]) == wrong[0], "where all are answered wrong, the nearest to right"
    assert people.person["id"] not in people.people


def test_answers_of_a_version_that_answered_nobody_are_not_made_up() -> None:
    answers = {1: [{"label": "a", "probabilities": {"a": 0.75, "b": 0.25}}]}
    assert compared([{"id": 7, "kind": "b"}], "kind", answers, (1, 2)) == []
    (found,) = compared([{"id": 7, "kind": "b"}], "kind", answers, (1, 1))
    assert found["before"] == {"label": "a", "probability": 0.75, "of_right": 0.25}


@pytest.mark.slow
def test_a_changed_certificate_is_seen(small: tuple[System, Asked, Phases]) -> None:
    system, people, bar = small
    before = rows_left(system, people.people)
    found = forget(system, bar, "many", people.people)
    assert certificate_page(system, bar, found["request_id"]) is None, "it is not purged yet"
    assert purge(system, bar, [found["request_id"]], people.people, before)["not_purged"] == []
    made = certificate_page(system, bar, found["request_id"])
    assert made is not None
    assert "signed by a key that the reader named" in made
    file = Path(system.settings.storage_url) / "certificates" / "00000001.json"
    document = json.loads(file.read_text())
    document["request"]["received_at"] = "2020-01-01T00:00:00.000000Z"
    file.write_text(json.dumps(document))
    with pytest.raises(CorruptBlobError, match="certificate 1 is damaged"):
        certificates(system, bar, {})


@pytest.mark.slow
def test_a_copy_in_storage_is_counted_and_keeps_a_request_from_being_purged(
    small: tuple[System, Asked, Phases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_PURGE_SECONDS", 2.0)
    system, _, bar = small
    assert (rows_left(system, [7]), rows_left(system, [5000])) == (1, 0)
    found = forget(system, bar, "one", [7])
    copy_of_it = pq.read_table(system.settings.data.train).slice(7, 1)
    pq.write_table(copy_of_it, Path(system.settings.storage_url) / "copy.parquet")
    ended = purge(system, bar, [found["request_id"]], [7], 1)
    assert (ended["rows_before"], ended["rows_after"]) == (1, 1)
    assert "copy.parquet" in ended["not_purged"][0]


def test_the_demo_keeps_to_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDMU_STORAGE_URL", "/somebody/elses")
    monkeypatch.setenv("HYBRIDMU_DATABASE_URL", "sqlite:////somebody/elses.sqlite3")
    for name, settings in (("sums", sums_settings(tmp_path)), ("network", network_settings(tmp_path))):
        assert settings.storage_url == str(tmp_path / name)
        assert settings.keys_folder == tmp_path / f"{name}-keys"
        assert settings.database == f"sqlite:///{tmp_path / name / 'ledger.sqlite3'}"


def test_what_is_not_of_an_earlier_demo_is_not_removed(tmp_path: Path) -> None:
    kept = tmp_path / "network" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("years of work")
    with pytest.raises(ConfigError, match="is not of an earlier demo"):
        run_demo(tmp_path, scene.quiet())
    assert kept.read_text() == "years of work"


def test_clients_count_answers_and_refusals() -> None:
    answers = iter([(503, ""), (200, "no json"), (200, '{"version": 4, "predictions": ["first"]}')])
    lock = threading.Lock()

    def answer() -> tuple[int, str]:
        with lock:
            return next(answers, (200, '{"version": 5, "predictions": []}'))

    with scene.server(answer) as address:
        clients = Clients(address, b"{}")
        clients.wait()
        clients.stop()
    report = clients.report(5)
    assert (report["failures"], report["versions"], report["last_version"]) == (2, [4, 5], 5)
    assert report["answers"] == len(clients.versions) > 2
    assert clients.answers == {4: ["first"], 5: []}


# ---------------------------------------------------------------------- what is shown


def test_the_headline_comes_first_with_the_measured_times(story: dict[str, Any], tmp_path: Path) -> None:
    first, *_ = printed(story, tmp_path).splitlines()
    assert first == headline(story)
    assert re.match(r"Exact deletion [\d.]+ m?s, from scratch [\d.]+ m?s: a person's review left a model of 600", first)
    made = page(story)
    assert made.index("Exact deletion") < made.index("<h2>")
    assert '<p class="banner good">' in made


def test_it_ends_with_what_to_open_and_what_to_do_next(story: dict[str, Any], tmp_path: Path) -> None:
    *_, opens, check, following = printed(story, tmp_path).splitlines()
    assert opens.startswith("open ")
    assert all(str(tmp_path / name) in opens for name in ("report.html", "certificate.html"))
    assert check.split() == ["check", *story["check"].split()]
    assert following.startswith("next ")


def test_the_page_shows_the_person_the_answers_and_the_timeline(story: dict[str, Any]) -> None:
    made, sums = page(story), story["sums"]
    assert f"<blockquote>{sums['person']['review']}</blockquote>" in made
    for answer in sums["answers"]:
        assert answer["row"]["review"] in made
        assert f"{answer['before']['of_right']:.2%}" in made
    moments = re.findall(r"<li><time>(.*?)</time> <strong>(\w+)</strong>", made)
    assert [name for _, name in moments[:2]] == ["accepted", "applied"]
    assert {name for _, name in moments[2:-1]} == {"exact", "served"}
    assert moments[-1][1] == "purged"
    assert "<svg" not in made, "no plot says more here than words and lengths"
    assert not re.search(r'(src|href)="(?!certificate\.html")', made)


def test_a_gap_is_green_only_within_its_budget(story: dict[str, Any]) -> None:
    within = page(spoiled(story, ("network", "gap", "gaps"), [-0.05, 0.1]))
    beyond = page(spoiled(story, ("network", "gap", "gaps"), [-0.37, 0.05]))
    assert re.search(r'<span class="mark good">Loss on.*-0\.050 to \+0\.100; all within the budget', within)
    assert re.search(r'<span class="mark middle">Loss on.*-0\.370 to \+0\.050; BEYOND the budget', beyond)


def test_a_purge_that_was_held_back_is_not_shown_as_clean(story: dict[str, Any], tmp_path: Path) -> None:
    wrong = spoiled(story, ("sums", "purge", "not_purged"), ["not purged: copy.parquet still names a purged row"])
    said = printed(wrong, tmp_path)
    assert re.search(r"NOT PURGED +copy\.parquet still names", said)
    assert said.count("0 found") == 1, "of the network"
    made = page(wrong)
    assert "Not purged: not purged: copy.parquet still names" in made
    assert made.count("0 found") == 1


def test_parts_of_the_demo_are_timed_in_order(story: dict[str, Any]) -> None:
    names = [*story["phases"]]
    assert names[0] == "sums: reading and encoding the reviews"
    assert names.index("sums: forgetting one person") < names.index("sums: purging, looking, signing")
    assert names.index("sums: checking the certificates") < names.index("network: forgetting one person")
    assert names[-1] == "network: checking the certificates"
    assert all(seconds >= 0 for seconds in story["phases"].values())


def test_its_page_of_the_docs_shows_what_the_demo_prints(story: dict[str, Any], tmp_path: Path) -> None:
    text = printed(story, tmp_path)
    docs = (PROJECT / "docs" / "demo.md").read_text()
    excerpt = docs[docs.index("$ make demo") :].split("```")[0]

    def labels(lines: str) -> list[str]:
        return re.findall(r"^([a-z]+(?: [a-z]+)?)  +\S", lines, re.MULTILINE)

    assert labels(text) == labels(excerpt)
    assert len(labels(text)) == 11
    assert headline(story).split(": ")[1].split(" of ")[0] in excerpt
    heads = next(line for line in text.splitlines() if line.startswith("┃"))
    for word in (each.strip() for each in heads.strip("┃").split("┃")):
        assert re.sub(r"^\d+ ", "", word) in excerpt
