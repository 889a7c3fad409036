"""Signatures of webhooks as Standard Webhooks describes them (https://www.standardwebhooks.com), version v1."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence

from hybridmu.errors import ConfigError

_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64


def parse_secrets(data: bytes, where: str) -> tuple[bytes, ...]:
    """Return the keys in a receiver's secret, each of 24 to 64 bytes.

    Args:
        data: `whsec_` and base64, one or several with white space between them.
        where: What the configuration calls it, for the message; its content is never shown.

    Raises:
        ConfigError: It is something else.

    Example:
        >>> parse_secrets(b"whsec_" + base64.b64encode(b"k" * 24), "file:secret") == (b"k" * 24,)
        True
    """
    found = [_parsed(text) for text in data.decode(errors="replace").split()]
    if not found or None in found:
        raise ConfigError(
            "the secret of a webhook is not one",
            expected=f"{_PREFIX} and base64 of {_LEAST_BYTES} to {_MOST_BYTES} bytes",
            got=where,
            remedy='make one: echo "whsec_$(openssl rand -base64 32)"; its receiver needs the same',
        )
    return tuple(key for key in found if key is not None)


def _parsed(text: str) -> bytes | None:
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if text.startswith(_PREFIX) and _LEAST_BYTES <= len(key) <= _MOST_BYTES else None


def signed_headers(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers by which a receiver knows who sent a body, and when.

    Args:
        secrets: Keys; each makes a signature, and a receiver needs to know one of them.
        message_id: The same at every try.
        timestamp: Of this try, in seconds since the epoch.
        body: What is sent.

    Example:
        >>> signed_headers([b"k" * 24], "msg_1", 1700000000, b"{}")["webhook-timestamp"]
        '1700000000'
    """
    content = b".".join([message_id.encode(), str(timestamp).encode(), body])
    made = [base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in made),
    }
