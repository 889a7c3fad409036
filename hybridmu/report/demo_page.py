"""The page of the demo: what a person who asks to be forgotten, and who has to answer them, want to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybridmu.report.html_page import Cell, Mark, render
from hybridmu.report.measured_times import duration

Report = Mapping[str, Any]
_MOMENTS = (
    ("applied", "a model without the review is there: its sums were subtracted, and what is left is solved again"),
    ("served", "every replica answers with it"),
    ("exact", "nothing approximate is left of the removal"),
    ("purged", "the row is rewritten out of the tables, old models are deleted, what is left was searched: signed"),
)


def page(report: Report) -> str:
    """Return the report of the demo as one HTML page without outside references."""
    sums, network = report["sums"], report["network"]
    heads, rows = lines(report)
    return render(
        "demo.html.j2",
        headline=headline(report),
        mark="good" if report["ok"] else "bad",
        bars=_bars(report),
        person=[(name, str(value)) for name, value in sums["person"].items() if name != "review"],
        review=sums["person"]["review"],
        answers=[_answer(at, answer) for at, answer in enumerate(sums["answers"])],
        moved=afterwards(sums["answers"][0]) if sums["answers"] else "",
        timeline=_timeline(sums),
        deadline=_deadline(sums),
        served=_served(sums["serving"]),
        proof=[_proof(deletion) for deletion in sums["deletions"]],
        certificates=[_certificate(entry) for part in (sums, network) for entry in part["certificates"]],
        check=report["check"],
        heads=heads,
        rows=rows,
        accuracies=accuracies(report),
        repaired=_repaired(network),
        gap=_gap(network),
        purges=[_purge(name, part) for name, part in (("by sums", sums), ("network", network))],
        reasons=[reason for part in (sums, network) for reason in part["purge"]["not_purged"]],
        phases=[[name, duration(seconds)] for name, seconds in report["phases"].items()],
        seconds=duration(report["seconds"]),
    )


def headline(report: Report) -> str:
    """Return what the demo showed, in one sentence."""
    sums = report["sums"]
    one, rows = sums["deletions"][0], sums["training"]["rows"]["train"]
    times = (
        f"Exact deletion {duration(one['seconds_to_applied'])},"
        f" from scratch {duration(sums['training']['scratch_seconds'])}"
    )
    if not report["ok"]:
        return f"{times}, BUT SOMETHING DID NOT HOLD: look for ✗ and for capital letters below."
    return (
        f"{times}: a person's review left a model of {rows:,}, and a fresh process that counted all others again came "
        "to the same bits."
    )


def lines(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return what each way took: the heads of a table, and its rows.

    Args:
        report: From `run_demo`.
    """
    sums, network = report["sums"], report["network"]
    (one, more), (retrained, updated) = sums["deletions"], network["deletions"]
    equal = all(deletion["proof"]["bitwise_equal"] for deletion in sums["deletions"])
    repaired = network["proof"]["bitwise_equal"]
    took = [duration(deletion["seconds_to_applied"]) for deletion in (one, more, retrained, updated)]
    return ["way", one["name"], more["name"], "exact"], [
        ["sums, subtracted", took[0], took[1], "at once, bit for bit" if equal else "NO: OTHER BITS THAN FROM SCRATCH"],
        ["network, part retrained (PRS)", took[2], "–", "at once"],
        ["network, updated (DPUS)", "–", took[3], f"after a repair of {duration(network['repair_seconds'])}"],
        [
            "from scratch",
            f"sums {duration(sums['training']['scratch_seconds'])}",
            f"network {duration(network['training']['scratch_seconds'])}",
            "network, repaired: bit for bit" if repaired else "NO: THE NETWORK HAS OTHER BITS",
        ],
    ]


def afterwards(answer: Mapping[str, Any]) -> str:
    """Return what was answered to the person's own review, before and after.

    Args:
        answer: The first of the report's answers.
    """
    before, after = (_said(answer[when]) for when in ("before", "after"))
    return f"{before} before, {after} after"


def accuracies(report: Report) -> str:
    """Return what all deletions together did to the accuracy of both models."""
    said = []
    for name, part in (("sums", report["sums"]), ("network", report["network"])):
        before = part["training"]["accuracy"]
        after = part["proof"]["accuracy"] if "proof" in part else part["deletions"][-1]["accuracy_after"]
        said.append(f"{name} {before:.1%} -> {after:.1%}")
    rows = report["sums"]["training"]["rows"]
    return f"{', '.join(said)} of {rows['test']:,} test reviews"


def looked(purged: Report) -> str:
    """Return what was searched after a purge, and what was found.

    Args:
        purged: Of one model.
    """
    files = sum(look["storage"]["files"] for look in purged["looks"])
    size = sum(look["storage"]["bytes"] + look["database"]["bytes"] for look in purged["looks"])
    # What is found keeps its request from being purged, while others of the batch go on.
    found = "NOT ALL OF THEM ARE GONE" if purged["not_purged"] else "0 found"
    return f"{files} other files and the database searched ({size / 1000:,.0f} kB), {found}"


def _bars(report: Report) -> list[list[dict[str, Any]]]:
    """Return pairs of lengths of time, each beside from scratch."""
    made = []
    ways = (("sums", "a person leaves the sums"), ("network", "a person leaves the network, a part retrained"))
    for name, says in ways:
        part = report[name]
        short, long = part["deletions"][0]["seconds_to_applied"], part["training"]["scratch_seconds"]
        most = max(short, long)
        both = ((says, short), (f"{name}, all from scratch", long))
        made.append([
            {"says": text, "time": duration(seconds), "percent": f"{100 * seconds / most:.2f}"}
            for text, seconds in both
        ])
    return made


def _answer(at: int, answer: Mapping[str, Any]) -> list[str]:
    whose = "the person's" if at == 0 else "of somebody who stays"
    return [
        f"{whose}: {answer['row']['review']}",
        answer["label"],
        *(_said(answer[when]) for when in ("before", "after")),
        *(f"{answer[when]['of_right']:.2%}" for when in ("before", "after")),
    ]


def _said(answered: Mapping[str, Any]) -> str:
    return f"{answered['label']} ({answered['probability']:.2%})"


def _timeline(sums: Report) -> list[tuple[str, str, str]]:
    """Return the moments of the person's request in their order: when, what, and what it means."""
    one = sums["deletions"][0]
    found = next((entry for entry in sums["certificates"] if entry["request_id"] == one["request_id"]), None)
    moments = [("0 s", "accepted", "from here on it is durable: a crash loses nothing")]
    if found is not None:
        later = sorted(_MOMENTS, key=lambda moment: found[f"seconds_to_{moment[0]}"])
        moments += [(duration(found[f"seconds_to_{name}"]), name, says) for name, says in later]
    return moments


def _deadline(sums: Report) -> Cell:
    one, allowed = sums["deletions"][0], duration(sums["deadline_seconds"])
    found = [entry for entry in sums["certificates"] if entry["request_id"] == one["request_id"]]
    if not found:
        return Cell(f"NOT purged yet; it is due within {allowed}.", "bad")
    took = duration(found[0]["seconds_to_purged"])
    kept = found[0]["deadline_kept"]
    if kept:
        return Cell(f"Purged and certified after {took}, of {allowed} that were allowed.", "good")
    return Cell(f"LATE: purged after {took}, and due within {allowed}.", "bad")


def _served(serving: Report) -> Cell:
    answers, failures = serving["answers"], serving["failures"]
    versions = ", ".join(map(str, serving["versions"]))
    if failures:
        return Cell(f"{failures:,} of {answers + failures:,} answers over HTTP failed meanwhile", "bad")
    return Cell(f"{answers:,} answers over HTTP meanwhile, by versions {versions}; none failed", "good")


def _proof(deletion: Report) -> list[str | Cell]:
    proof = deletion["proof"]
    equal = Cell("yes, bit for bit", "good") if proof["bitwise_equal"] else Cell("NO", "bad")
    figures = [f"{proof[name]:.2%}" for name in ("accuracy", "oracle_accuracy")]
    return [deletion["name"], str(deletion["rows"]), deletion["strategies"], equal, *figures]


def _certificate(entry: Report) -> list[str | Cell]:
    held, checks = entry["checks_held"], entry["checks"]
    whole = held == checks and entry["chain"]
    says = f"{held:,} of {checks:,} checks hold, its chain {'holds' if entry['chain'] else 'is BROKEN'}"
    kept = {None: "no deadline", True: Cell("in time", "good"), False: Cell("LATE", "bad")}[entry["deadline_kept"]]
    return [entry["name"], entry["removal"], str(entry["proofs"]), Cell(says, "good" if whole else "bad"), kept]


def _repaired(network: Report) -> Cell:
    proof = network["proof"]
    if not proof["bitwise_equal"]:
        return Cell("After the repair, NOT all shards equal a training from scratch.", "bad")
    shards, updated = proof["shards"], network["updated_shards"]
    return Cell(
        f"{updated} shard(s) had been updated; after {duration(network['repair_seconds'])} of repair all {shards} equal"
        " a training from scratch, bit for bit.",
        "good",
    )


def _gap(network: Report) -> Cell | None:
    """Return how far the update was from a retrain, beside what a shard may owe; None where nothing was updated."""
    if network["gap"]["gaps"] is None:
        return None
    low, high = network["gap"]["gaps"]
    budget = network["gap_budget"]
    within = max(abs(low), abs(high)) <= budget
    mark: Mark = "good" if within else "middle"
    kept = "all within the budget" if within else "BEYOND the budget for some, until the repair"
    return Cell(
        f"Loss on the forgotten reviews minus that of a retrain, per shard: {low:+.3f} to {high:+.3f}; {kept} of"
        f" ±{budget:g}.",
        mark,
    )


def _purge(name: str, part: Report) -> Sequence[str | Cell]:
    purged = part["purge"]
    gone = purged["rows_after"] == 0 and not purged["not_purged"]
    left = f"{purged['rows_before']} before, {purged['rows_after']} after"
    return [
        name,
        Cell(left, "good" if gone else "bad"),
        f"{purged['rows']} rows rewritten out of {purged['tables']} tables, {purged['files']} files deleted",
        looked(purged),
    ]
