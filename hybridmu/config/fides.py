"""Settings of the connector for Fides: where its privacy requests are answered, and what its identities are here."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator

from hybridmu.config.section import Section
from hybridmu.config.webhooks import check_url
from hybridmu.types import KeyKind

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")


class FidesSettings(Section):
    """Erasure requests of Fides, by its policy webhooks (docs/fides.md).

    Attributes:
        url: Where its interface is: `https://HOST/api/v1`, or `http://` on this machine alone; the path that it names
            for an answer is put behind it.
        identities: Its names of identities, such as `email` and `external_id` → whether their values are ids or groups
            of the tables.
        private_network: Whether the host may have addresses of a private network, which otherwise are refused.
        timeout_seconds: How long one try of an answer may take in all.
        give_up_hours: An answer that was not taken for so long since its first try is given up.
    """

    url: str
    identities: dict[str, KeyKind] = Field(min_length=1, max_length=50)
    private_network: bool = False
    timeout_seconds: float = Field(10.0, ge=1, le=60)
    give_up_hours: float = Field(72.0, gt=0, le=8760)

    @field_validator("url")
    @classmethod
    def _reachable(cls, url: str) -> str:
        if "?" in check_url(url):
            raise ValueError("expected https://HOST/PATH without a question mark: another path is put behind it")
        return url

    @field_validator("identities")
    @classmethod
    def _named(cls, identities: dict[str, KeyKind]) -> dict[str, KeyKind]:
        if wrong := [name for name in identities if not _NAME.fullmatch(name)]:
            raise ValueError(f"an identity is named {wrong[0][:60]!r}; expected letters, digits, _, . and -")
        return identities

    def address_of(self, path: str) -> SplitResult:
        """Return where an answer goes.

        Args:
            path: That Fides named.
        """
        return urlsplit(self.url.rstrip("/") + path)
