"""Settings of webhooks: who is told of the life of deletion requests, and how."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator

from hybridmu.config.addresses import whole_path
from hybridmu.config.section import Section
from hybridmu.types import EVENTS, RequestEvent

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_MOST_RECEIVERS = 20
_LONGEST_URL = 2000


class WebhookSettings(Section):
    """One receiver.

    Attributes:
        url: Where events are sent: `https://…`, or `http://` on this machine alone. It is never logged, nor kept in
            the ledger: what follows the host may be a secret.
        secret: What signs them: `env:NAME` or `file:PATH` of a secret `whsec_…`, base64 of 24 to 64 bytes after that;
            several, separated by spaces or line ends, sign each event several times while they are changed.
        events: Which events.
        private_network: Whether the host may have addresses of a private network, which otherwise are refused.
        timeout_seconds: How long one try may take in all.
        give_up_hours: An event that was not acknowledged for so long since its first try is given up.
    """

    url: str
    secret: str
    events: tuple[RequestEvent, ...] = EVENTS
    private_network: bool = False
    timeout_seconds: float = Field(10.0, ge=1, le=60)
    give_up_hours: float = Field(72.0, gt=0, le=8760)

    @field_validator("url")
    @classmethod
    def _reachable(cls, url: str) -> str:
        return check_url(url)

    @field_validator("secret")
    @classmethod
    def _named(cls, source: str) -> str:
        kind, _, name = source.partition(":")
        if kind not in {"env", "file"} or not name:
            raise ValueError("expected env:NAME or file:PATH")  # what is there instead may be the secret itself
        return f"file:{whole_path(name)}" if kind == "file" else source

    @property
    def address(self) -> SplitResult:
        """Return the URL in its parts."""
        return urlsplit(self.url)


def check_url(url: str) -> str:
    """Return the address of somebody who is told something; what is wrong is said without it: it may hold a secret.

    Raises:
        ValueError: It is none that is called.
    """
    if len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"expected at most {_LONGEST_URL} printable ASCII characters without spaces")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("expected https://HOST[:PORT]/PATH") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("expected https://HOST[:PORT]/PATH, or http:// on this machine")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("expected no name or password in it, and nothing after #: events are signed")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("http:// is for this machine alone (127.0.0.1, [::1] or localhost); use https://")
    return url


def check_names(receivers: dict[str, WebhookSettings]) -> None:
    """Check what receivers are called, and that they are few.

    Raises:
        ValueError: A name is not one, or there are too many.
    """
    if len(receivers) > _MOST_RECEIVERS:
        raise ValueError(f"expected at most {_MOST_RECEIVERS} receivers, got {len(receivers)}")
    if wrong := [name for name in receivers if not _NAME.fullmatch(name)]:
        raise ValueError(f"a receiver is named {wrong[0][:60]!r}; expected a-z, 0-9 and -, at most 40 characters")


def is_loopback(host: str) -> bool:
    """Return whether a host's name is this machine's, without asking anybody.

    Example:
        >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("localhost.example.org")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
