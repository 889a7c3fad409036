"""Versions that a bucket keeps of deleted and replaced objects, and the parts of uploads that were never finished.

`Storage` does not see these, yet they hold the bytes: a purge has to remove them and then look.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlparse

from hybridmu.errors import StorageError
from hybridmu.store.storage.s3 import ATTEMPTS, CONNECT_SECONDS, SILENT_SECONDS, Address, address_of, explain

_T = TypeVar("_T")
Kind = Literal["version", "marker", "upload"]
# What one call of S3 deletes at most.
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that a bucket keeps beside its current objects.

    Attributes:
        name: Of the object, relative to the root of storage.
        kind: A replaced or deleted `version`, the `marker` of a deletion, or an unfinished `upload`.
        version: Version or upload id.
        size: Bytes; 0 for markers, and for uploads, whose size S3 does not list.
    """

    name: str
    kind: Kind
    version: str
    size: int


def list_noncurrent(url: str, prefix: str = "") -> list[Leftover]:
    """List noncurrent versions, delete markers and unfinished uploads.

    Args:
        url: `storage_url`.
        prefix: What names begin with, relative to the root of storage.

    Returns:
        What was found, by name; always empty where storage is not on S3.

    Raises:
        StorageError: boto3 is missing, or the bucket can't be read.
    """
    if urlparse(url).scheme != "s3":
        return []
    address = address_of(url)
    client = _client(address)
    root = f"{address.prefix}/" if address.prefix else ""
    asked = {"Bucket": address.bucket, "Prefix": root + prefix}

    def look() -> list[Leftover]:
        found: list[Leftover] = []
        for page in client.get_paginator("list_object_versions").paginate(**asked):
            old = [item for item in page.get("Versions", []) if not item["IsLatest"]]
            found += [Leftover(i["Key"][len(root) :], "version", i["VersionId"], i["Size"]) for i in old]
            markers = page.get("DeleteMarkers", [])
            found += [Leftover(i["Key"][len(root) :], "marker", i["VersionId"], 0) for i in markers]
        for page in client.get_paginator("list_multipart_uploads").paginate(**asked):
            uploads = page.get("Uploads", [])
            found += [Leftover(i["Key"][len(root) :], "upload", i["UploadId"], 0) for i in uploads]
        return sorted(found, key=lambda item: (item.name, item.kind, item.version))

    return _explained("list the old versions", url, look)


def delete_noncurrent(url: str, names: Collection[str]) -> int:
    """Delete for good what `list_noncurrent` shows of these objects; their current versions stay.

    Args:
        url: `storage_url`.
        names: Objects, relative to the root of storage.

    Returns:
        How many versions, markers and uploads were deleted; 0 where storage is not on S3.

    Raises:
        StorageError: boto3 is missing, or S3 refused (a retention or legal hold of the bucket does that).
    """
    if urlparse(url).scheme != "s3" or not names:
        return 0
    address = address_of(url)
    client = _client(address)
    root = f"{address.prefix}/" if address.prefix else ""
    wanted = set(names)
    shared = _common_prefix(wanted)
    found = [item for item in list_noncurrent(url, shared) if item.name in wanted]

    def delete(items: list[Leftover]) -> None:
        for batch in _batches([{"Key": root + item.name, "VersionId": item.version} for item in items]):
            answer = client.delete_objects(Bucket=address.bucket, Delete={"Objects": batch, "Quiet": True})
            if errors := answer.get("Errors"):
                raise _refused("delete old versions", url, f"{errors[0]['Code']}: {errors[0].get('Message', '')}")

    def run() -> None:
        # Versions first: without its marker a deleted object's last version would be current again.
        delete([item for item in found if item.kind == "version"])
        delete([item for item in found if item.kind == "marker"])
        for item in found:
            if item.kind == "upload":
                client.abort_multipart_upload(Bucket=address.bucket, Key=root + item.name, UploadId=item.version)

    _explained("delete old versions", url, run)
    return len(found)


def _client(address: Address) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise StorageError(
            "storage on S3 can't be checked for old versions without boto3",
            expected="the optional dependency boto3",
            remedy="pip install 'hybridmu[s3]'",
        ) from None
    return boto3.client(
        "s3",
        region_name=address.region,
        endpoint_url=address.endpoint_url,
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=SILENT_SECONDS,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            # Another S3 than Amazon's has no bucket.host names.
            s3={"addressing_style": "path" if address.endpoint else "auto"},
        ),
    )


def _explained(doing: str, url: str, do: Callable[[], _T]) -> _T:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return do()
    except (BotoCoreError, ClientError) as error:
        raise _refused(doing, url, str(error)) from error


def _refused(doing: str, url: str, message: str) -> StorageError:
    case, remedy = explain(message) or ("S3 refused", "see what it says")
    if case == "permission is denied":
        remedy = (
            "allow s3:ListBucketVersions, DeleteObjectVersion, ListBucketMultipartUploads and AbortMultipartUpload; "
            "a retention period or legal hold of the bucket has to end first"
        )
    return StorageError(f"can't {doing} in {url}: {case}", got=message, remedy=remedy)


def _common_prefix(names: Collection[str]) -> str:
    low, high = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:same]


def _batches(items: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
