"""Signatures: what an independent verifier believes, and what it does not."""

from __future__ import annotations

import base64
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.errors import ConfigError
from hybridmu.runtime.webhooks.signature import parse_secrets, signed_headers
from tests.scenes.webhook_receiver import SECRET, Received, is_signed

KEYS = st.binary(min_size=24, max_size=64)
NOW = 1_800_000_000


def written(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


@given(
    keys=st.lists(KEYS, min_size=1, max_size=3, unique=True), body=st.binary(max_size=300), late=st.integers(-300, 300)
)
def test_each_holder_of_a_key_believes_what_was_sent_within_the_tolerance(keys, body, late):
    secrets = parse_secrets("\n".join(map(written, keys)).encode(), "file:x")
    got = Received(signed_headers(secrets, "msg_1", NOW, body), body)
    assert all(is_signed(got, written(key), NOW + late) for key in keys)
    assert not is_signed(got, written(keys[0]), NOW + 301)
    assert not is_signed(got, written(keys[0]), NOW - 301)


@given(key=KEYS, other=KEYS, body=st.binary(max_size=300), changed=st.binary(max_size=300), at=st.integers(-200, 200))
def test_nobody_believes_another_key_body_name_or_time(key, other, body, changed, at):
    got = Received(signed_headers([key], "msg_1", NOW, body), body)
    assert is_signed(got, written(other), NOW) == (key == other)
    assert is_signed(dataclasses.replace(got, body=changed), written(key), NOW) == (body == changed)
    renamed = {**got.headers, "webhook-id": "msg_2"}
    assert not is_signed(dataclasses.replace(got, headers=renamed), written(key), NOW)
    moved = {**got.headers, "webhook-timestamp": str(NOW + at)}
    assert is_signed(dataclasses.replace(got, headers=moved), written(key), NOW) == (at == 0)


def test_the_vector_of_the_specification():
    """From the reference libraries' own tests (github.com/standard-webhooks/standard-webhooks)."""
    (key,) = parse_secrets(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "env:X")
    made = signed_headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "whsec_",
        SECRET[6:],
        "whsec_????",
        written(b"k" * 23),
        written(b"k" * 65),
        f"{SECRET} {written(b'k')}",
    ],
)
def test_what_is_no_secret_is_refused_without_being_shown(text):
    with pytest.raises(ConfigError) as caught:
        parse_secrets(text.encode(), "env:HOOK")
    assert "env:HOOK" in str(caught.value)
    assert text.strip() in {"", "whsec_"} or text not in str(caught.value)
