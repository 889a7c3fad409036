"""Page of a certificate for people: one file of HTML without scripts, for a screen of any width and for paper."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterable, Sequence

from .document import Certificate, Purge, Request
from .plain_data import fingerprint, parse_moment, visible
from .shard_evidence import ShardEvidence
from .statements import shown_by, unshown_by
from .style import STYLE
from .typed_json import read
from .verdict import Verdict

_MOST_KEYS = 12
_KINDS = {
    "forget": "Deletion: the rows, and what models learnt from them",
    "correct": "Correction: the rows are deleted like any others, and new ones come in their place",
}


def page(verdict: Verdict) -> str:
    """Return the page of a certificate that was checked.

    Whatever the document says is shown only if it holds; otherwise the page says what does not, and nothing else.

    Args:
        verdict: From `judge`.
    """
    if not verdict.ok:
        wrong = [f"{finding.claim}: {finding.detail or 'no'}" for finding in verdict.findings if not finding.ok]
        return _whole(
            "This certificate does not hold",
            _banner("bad", "This certificate DOES NOT HOLD.", "What it says of itself is not shown here."),
            _section("What does not hold", _list(wrong or ["nothing was looked at"])),
        )
    certificate = read(Certificate, verdict.document)
    return _whole(
        f"Certificate of deletion {certificate.number}",
        _signed(verdict, certificate),
        _section("What was asked", _asked(certificate)),
        _section("When", _times(certificate)),
        _section("What was done", "".join(map(_shard, certificate.shards))),
        _section("Purge", _purge(certificate.purge)),
        _section("What this shows", _list(shown_by(verdict.document))),
        _section("What this does not show", _list(unshown_by(verdict.document))),
        _section("Signature", _signature(verdict, certificate)),
    )


def _signed(verdict: Verdict, certificate: Certificate) -> str:
    name = f"Certificate {certificate.number} of system {certificate.system} holds."
    if verdict.trusted_key_given:
        return _banner("good", name, "It is signed by a key that the reader named.")
    return _banner("middle", name, "Nobody is authenticated: anybody can sign such a document. Compare the key below.")


def _asked(certificate: Certificate) -> str:
    keys = certificate.keys
    counts = [(kind, sum(key.kind == kind for key in keys)) for kind in ("id", "group")]
    named = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts if count)
    macs = [f"{key.kind} {key.mac} (guard key {key.key_id})" for key in keys[:_MOST_KEYS]]
    more = [f"and {len(keys) - _MOST_KEYS} more, in the document"] if len(keys) > _MOST_KEYS else []
    facts = [("Request", certificate.request.id), ("Kind", _KINDS[certificate.request.kind]), ("Named", named)]
    said = "Ids and groups are not in the document; their HMACs are, which only the operator's guard key makes."
    return _facts(facts) + _paragraph(said) + _list([*macs, *more], "code")


def _times(certificate: Certificate) -> str:
    request, times = certificate.request, certificate.times
    kept = {None: "", True: ": kept", False: ": NOT kept"}[times.deadline_kept]
    facts = [
        ("Received", _when(request.received_at)),
        ("Due", "no deadline" if request.deadline_at is None else _when(request.deadline_at) + kept),
        (
            "Planned",
            "the rows were out of the model already" if request.planned_at is None else _when(request.planned_at),
        ),
        ("Applied", _later(request, request.applied_at)),
        ("Served by all", _later(request, request.served_at)),
        ("Exact", _later(request, request.exact_at)),
        ("Purged", _later(request, request.purged_at)),
        ("Issued", _when(times.issued_at)),
    ]
    if times.clock_set_back:
        facts.append(("Clock", "it was set back meanwhile: a time that came out too early is that of the step before"))
    return _facts(facts)


def _shard(shard: ShardEvidence) -> str:
    steps = [
        f"version {stage.version}: {stage.strategy}, {'exact' if stage.exact else 'approximate'}"
        for stage in shard.stages
    ]
    gap, unchanged = shard.evidence.forget_loss_gap, shard.before.weights == shard.after.weights
    facts = [
        ("Steps", "; then ".join(steps)),
        ("Exactness", _exactness(shard)),
        ("Rows proven gone", str(len(shard.proofs))),
        (
            "Weights",
            "as before" if unchanged else "changed" if shard.after.weights else "out of the vote: no row is left",
        ),
        *([("Gap of the approximate step", f"{gap:.3g}")] if gap is not None else []),
        ("Rows per slice", _slices(shard)),
    ]
    return f"<h3>Shard {shard.shard}</h3>" + _facts(facts)


def _exactness(shard: ShardEvidence) -> str:
    last, sums = shard.stages[-1].strategy, shard.exactness == "integers"
    how = "sums without the rows" if last == "subtract" or sums else "trained without the rows"
    where = ", the same bits on any machine" if sums else ""
    compared = shard.evidence.verified == "yes"
    checked = "compared bit for bit with a new training" if compared else "not compared with a new training"
    return f"exact: {how}{where}; {checked}, as the signer says ({shard.evidence.how})"


def _slices(shard: ShardEvidence) -> str:
    before, after = ([link.rows for link in state.links] for state in (shard.before, shard.after))
    return f"{sum(before)} before ({_counts(before)}), {sum(after)} after ({_counts(after)})"


def _counts(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _purge(purge: Purge) -> str:
    places = {"storage": purge.looked.storage, "the database": purge.looked.database}
    facts = [
        ("Rows removed", str(purge.rows)),
        *([("Removed by an earlier purge", str(purge.rows_earlier))] if purge.rows_earlier else []),
        ("Tables rewritten", str(purge.tables)),
        ("Files deleted", str(purge.files)),
        ("Equal rows of others left", str(purge.duplicates_left)),
        *(
            (
                f"Searched in {place}",
                ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(found.items())),
            )
            for place, found in places.items()
        ),
    ]
    return _facts(facts) + _paragraph("Of all requests that were purged together; as the signer says.")


def _signature(verdict: Verdict, certificate: Certificate) -> str:
    signature = certificate.signature
    key = bytes.fromhex(signature.public_key)
    past = certificate.predecessor
    facts = [
        ("Algorithm", "Ed25519 over the canonical bytes of the document"),
        ("Key", f"{signature.key_id}, sha256 {hashlib.sha256(key).hexdigest()}"),
        ("Public key", key.hex(" ", 4)),
        ("Signature", signature.value),
        ("Document", f"{certificate.format}, sha256 {fingerprint(verdict.document)}"),
        ("Certificate before", certificate.previous or "none: it is the first"),
        *([("Model before", f"version {past.version} of system {past.system}")] if past else []),
    ]
    return _facts(facts, "code")


def _later(request: Request, text: str) -> str:
    seconds = (parse_moment(text) - parse_moment(request.received_at)).total_seconds()
    return f"{_when(text)}, {_duration(seconds)} after it was received"


def _when(text: str) -> str:
    return f"{parse_moment(text):%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} seconds"


def _plain(text: str) -> str:
    return html.escape(visible(text))


def _facts(facts: Iterable[tuple[str, str]], kind: str = "") -> str:
    rows = "".join(f"<div><dt>{_plain(name)}</dt><dd>{_plain(value)}</dd></div>" for name, value in facts)
    return f'<dl class="{kind}">{rows}</dl>' if kind else f"<dl>{rows}</dl>"


def _list(sentences: Iterable[str], kind: str = "says") -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{_plain(each)}</li>" for each in sentences) + "</ul>"


def _paragraph(text: str) -> str:
    return f"<p>{_plain(text)}</p>"


def _banner(kind: str, first: str, second: str) -> str:
    return f'<p class="banner {kind}" role="status"><strong>{_plain(first)}</strong> {_plain(second)}</p>'


def _section(title: str, inner: str) -> str:
    return f"<section><h2>{_plain(title)}</h2>{inner}</section>"


def _whole(title: str, *parts: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{_plain(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{_plain(title)}</h1>{''.join(parts)}</body></html>\n"
    )
