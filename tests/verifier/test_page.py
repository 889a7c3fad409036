"""The page of a certificate: what a person needs, nothing of what does not hold, and no markup of the signer's."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from hybridmu.cli.main import app
from hybridmu.verifier.page import page
from hybridmu.verifier.plain_data import canonical, key_id
from hybridmu.verifier.verdict import judge
from tests import sample_certificates as made
from tests.verifier import certificates

_VOID = {"meta"}


class Reader(HTMLParser):
    """Reads text and tags, and asserts that every tag is closed where it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += f" {data}"


def read(document, trusted=(made.PUBLIC,)) -> Reader:
    return Reader(page(judge("x.json", canonical(document), trusted)))


def test_it_says_what_was_asked_done_and_not_shown():
    document = made.signed()
    text = read(document).text
    for said in (
        "Certificate 1 of system 5f0c holds.",
        "It is signed by a key that the reader named.",
        "request-1",
        "1 id, 1 group",
        "01" * 32,
        "1970-01-01 00:01:40 UTC",
        "60.0 seconds after it was received",
        "1970-01-01 00:03:20 UTC: kept",
        "version 2: dpus, approximate; then version 3: retrain, exact",
        "exact: trained without the rows; compared bit for bit with a new training, as the signer says (re-executed)",
        "-0.01",
        "14 before (5, 6, 3), 11 after (4, 4, 3)",
        "Tables rewritten",
        "9 needles",
        key_id(made.PUBLIC),
        made.PUBLIC.hex(" ", 4),
        *document["not_proven"],
    ):
        assert said in text, said


def test_a_signature_that_nobody_asked_about_is_no_authentication():
    text = read(made.signed(), None).text
    assert "Nobody is authenticated" in text
    assert "the reader named" not in text


@pytest.mark.parametrize("name", ["signed by another", "an update called exact", "changed request.id", "unsigned"])
def test_of_what_does_not_hold_nothing_is_shown(name):
    document = certificates.forgeries()[name]
    text = read(document).text
    assert "DOES NOT HOLD" in text
    assert "holds." not in text
    assert "request-1" not in text
    assert "What it does not show" not in text


NASTY = "<script>alert(1)</script><img src=x onerror=1>'\"&\x1b[31m\u202egnihton\u2066"


def test_no_text_of_the_signer_becomes_markup():
    document = certificates.spoken(NASTY)
    for shard in document["shards"]:
        shard["evidence"]["how"] = NASTY
    document["purge"]["looked"]["storage"][NASTY] = 3
    found = read(made.sign(document, made.KEY))
    assert not found.tags & {"script", "img", "a", "iframe", "link", "object", "form"}
    assert not any(name.startswith("on") or name in {"src", "href", "style"} for name, _ in found.attributes)
    assert found.text.count("<script>alert(1)</script>") == 4
    assert not set("\x1b\u202e\u2066") & set(found.text)


def test_it_needs_nothing_from_elsewhere_and_is_for_every_screen_and_paper():
    source = page(judge("x.json", canonical(made.signed()), [made.PUBLIC]))
    assert not re.search(r"https?:|url\(|@import|src=|href=", source)
    assert "default-src 'none'" in source
    for query in ("prefers-color-scheme: dark", "@media print", "max-width: 34rem"):
        assert query in source
    assert 'name="viewport"' in source


def test_many_keys_stay_one_page():
    keys = [made.RevokedKey("id", number.to_bytes(32, "big"), "ab" * 8) for number in range(500)]
    text = read(made.sign(made.made(keys=keys), made.KEY)).text
    assert "500 ids" in text
    assert "and 488 more, in the document" in text


@pytest.mark.parametrize("special", ["subtract", "none left", "no deadline", "clock"])
def test_other_certificates_have_a_page_too(special):
    if special == "subtract":
        stage = made.Stage(strategy="subtract", version=2, exact=True)
        measured = made.Evidence(verified="no", how="not sampled", forget_loss_gap=None, revoked_rows=3)
        document, says = made.made(shards=[made.shard_evidence(stages=(stage,), evidence=measured)]), "sums without"
    elif special == "none left":
        document, says = (
            made.made(shards=[made.shard_evidence(range(len(made.ROWS)))], keys=made.KEYS),
            "no row is left",
        )
    elif special == "no deadline":
        facts = made.RequestFacts("r", "correct", 1.0, 1.0, 1.0, 1.0, 1.0)
        document, says = made.made(request=facts), "new ones come in their place"
    else:
        facts = made.RequestFacts("r", "forget", 100.0, 99.0, 101.0, 160.0, 170.0)
        document, says = made.made(request=facts), "it was set back"
    assert says in read(made.sign(document, made.KEY)).text


def test_the_system_writes_the_same_page(tmp_path):
    certificates.write(tmp_path, {"one": made.signed()})
    words = [tmp_path / "0001.json", "--public-key", tmp_path / "operator.pub.pem", "--html", tmp_path / "page.html"]
    done = CliRunner().invoke(app, ["certificate", "verify", *map(str, words)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "page.html").read_text() == page(judge("x", canonical(made.signed()), [made.PUBLIC]))
