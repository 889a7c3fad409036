"""S3 addresses: `s3://bucket/prefix?region=…&scheme=…&endpoint_override=…`, and what S3's errors mean."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlparse

import pyarrow.fs as pafs

from hybridmu.errors import ConfigError

# An endpoint that is dead or silent ends in an error within seconds, not in a coordinator that hangs.
CONNECT_SECONDS = 3.0
SILENT_SECONDS = 5.0
ATTEMPTS = 3
RETRY_SECONDS = 15  # for clients whose retries are bounded by time
_KNOWN = ("region", "scheme", "endpoint_override")


@dataclass(frozen=True)
class Address:
    """Where on which S3.

    Attributes:
        bucket: Its name.
        prefix: Key prefix without slashes around it; may be empty.
        region: Null: as AWS's own tools find it.
        scheme: `https` or `http`.
        endpoint: host:port of another S3 than Amazon's.
    """

    bucket: str
    prefix: str
    region: str | None
    scheme: str
    endpoint: str | None

    @property
    def path(self) -> str:
        """Return bucket/prefix."""
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket

    @property
    def endpoint_url(self) -> str | None:
        """Return the endpoint as a URL; None for Amazon's own."""
        return f"{self.scheme}://{self.endpoint}" if self.endpoint else None

    def open(self) -> pafs.FileSystem:
        """Return the file system; nothing is asked of the network yet, and credentials are looked up later."""
        return pafs.S3FileSystem(
            region=self.region,
            scheme=self.scheme,
            endpoint_override=self.endpoint,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=SILENT_SECONDS,
            allow_delayed_open=True,  # a small object is one PUT, not the three calls of a multipart upload
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        )


def address_of(url: str) -> Address:
    """Return the address that a URL names.

    Args:
        url: `s3://bucket/prefix?…`.

    Returns:
        The parsed address.

    Raises:
        ConfigError: No bucket, an unknown option, or credentials inside the URL.
    """
    parsed = urlparse(url)
    if "@" in parsed.netloc:
        raise ConfigError(
            "an S3 URL must not hold credentials",  # it is shown in errors and stored in configurations
            expected="s3://bucket/prefix?region=…",
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile or an instance role",
        )
    options = dict(parse_qsl(parsed.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_KNOWN))
    scheme, _, endpoint = options.get("endpoint_override", "").rpartition("://")
    scheme = options.get("scheme") or scheme or "https"
    if not parsed.netloc or unknown or scheme not in {"http", "https"}:
        raise ConfigError(
            f"can't open {url}",
            expected=f"s3://bucket/prefix, with any of {', '.join(_KNOWN)} in the query; the scheme is http or https",
            got=f"unknown option {', '.join(unknown)}" if unknown else url,
        )
    return Address(parsed.netloc, parsed.path.strip("/"), options.get("region"), scheme, endpoint or None)


_CASES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("NO_SUCH_BUCKET", "NoSuchBucket"),
        "the bucket does not exist",
        "create the bucket, or correct storage_url (bucket, region, endpoint_override)",
    ),
    (
        ("INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "InvalidAccessKeyId", "No credentials", "NO_CREDENTIALS"),
        "the credentials are missing or wrong",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile or an instance role",
    ),
    (
        ("ACCESS_DENIED", "AccessDenied", "HTTP status 403", "HTTP response code: 403"),
        "permission is denied",
        "allow this identity s3:GetObject, PutObject, DeleteObject and ListBucket on the bucket and prefix",
    ),
    (
        ("OAuth2 access token",),
        "Google's credentials are missing, or can't be asked for",
        "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`; check the network",
    ),
    (
        ("located in", "PermanentRedirect", "MOVED_PERMANENTLY"),
        "the bucket is in another region",
        "name it in storage_url: ?region=…",
    ),
    (
        (
            "NETWORK_CONNECTION",
            "curlCode",
            "REQUEST_TIMEOUT",
            "Could not connect",
            "Could not resolve",
            "timed out",
            "timeout",
            "Timeout",
        ),
        "the endpoint can't be reached",
        "check the network and endpoint_override and scheme in storage_url; the call can be repeated",
    ),
    (
        ("SLOW_DOWN", "SlowDown", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE"),
        "the object store is overloaded",
        "try again later",
    ),
)


def explain(message: str) -> tuple[str, str] | None:
    """Return (case, remedy) of an S3 error's text; None when it is not known."""
    return next(((case, remedy) for marks, case, remedy in _CASES if any(m in message for m in marks)), None)
