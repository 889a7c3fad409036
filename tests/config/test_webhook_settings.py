"""Receivers in the configuration: what is one, and what is refused without being shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.config import Settings
from hybridmu.errors import ConfigError

GOOD = {"url": "https://crm.example.org/hooks/1?k=v", "secret": "env:CRM"}


def parsed(**receivers):
    return Settings.parse({"data": {"train": "t.parquet"}, "storage_url": "/tmp/nowhere", "webhooks": receivers})


@pytest.mark.parametrize(
    "url", [GOOD["url"], "https://[2001:db8::1]:8443/", "http://127.0.0.1:8080/x", "http://[::1]/", "http://localhost/"]
)
def test_a_receiver(url):
    assert parsed(crm={**GOOD, "url": url}).webhooks["crm"].url == url


@pytest.mark.parametrize(
    "url",
    [
        *("http://crm.example.org/", "http://10.0.0.1/", "http://localhost.example.org/", "http://127.0.0.1.nip.io/"),
        *("ftp://crm.example.org/", "https://", "https://:443/", "https://crm.example.org:port/", "https://[::1/"),
        *("https://me:hunter2@crm.example.org/", "https://crm.example.org/#part", "https://crm.example.org/a b"),
        *("https://crm.exämple.org/", "https://crm.example.org/\r\nx: y", f"https://crm.example.org/{'x' * 2000}"),
        *("file:///etc/passwd", "//crm.example.org/", "crm.example.org"),
    ],
)
def test_what_is_no_address_of_a_receiver_is_refused_and_not_shown(url):
    with pytest.raises(ConfigError) as caught:
        parsed(crm={**GOOD, "url": url})
    assert "webhooks.crm.url" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("CRM", {}, "a receiver is named 'CRM'"),
        ("x" * 41, {}, "at most 40 characters"),
        ("crm", {"secret": "whsec_c2VjcmV0"}, "expected env:NAME or file:PATH"),
        ("crm", {"secret": "file:/tmp/nowhere/secret"}, "webhooks.crm.secret is inside storage_url"),
        ("crm", {"events": ["gone"]}, "webhooks.crm.events.0"),
        ("crm", {"events": []}, "webhooks.crm.events"),
        ("crm", {"timeout_seconds": 600}, "webhooks.crm.timeout_seconds"),
        ("crm", {"give_up_hours": 0}, "webhooks.crm.give_up_hours"),
        ("crm", {"evnets": ["purged"]}, "the nearest known one is 'events'"),
    ],
)
def test_what_is_wrong_is_named(name, changes, said):
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")) as caught:
        parsed(**{name: {**GOOD, **changes}})
    assert "c2VjcmV0" not in str(caught.value)


def test_there_are_not_many():
    with pytest.raises(ConfigError, match="at most 20 receivers"):
        parsed(**{f"r{n}": GOOD for n in range(21)})


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text):
    try:
        found = parsed(crm={**GOOD, "url": text}).webhooks["crm"].address
    except ConfigError:
        return
    assert found.scheme == "https" or found.hostname in {"localhost", "127.0.0.1", "::1"}
    assert found.hostname
