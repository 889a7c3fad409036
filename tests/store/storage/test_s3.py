"""Storage on S3, against a real endpoint on loopback."""

from __future__ import annotations

import builtins
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from moto.server import ThreadedMotoServer

import hybridmu
from hybridmu.errors import ConfigError, DataError, StorageError
from hybridmu.runtime.purge.storage_scan import drop_old_versions
from hybridmu.store.certificates import Certificates
from hybridmu.store.dataset.key_index import key_columns
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.store.dataset.source_table import open_table
from hybridmu.store.storage.audit_scores import Audits
from hybridmu.store.storage.blobs import Blobs
from hybridmu.store.storage.object_versions import delete_noncurrent, list_noncurrent
from hybridmu.store.storage.parquet import publish_parquet, writing
from hybridmu.store.storage.storage import Storage, _ReplacedError, open_fs
from tests import support


@dataclass(frozen=True)
class Bucket:
    client: Any
    name: str
    port: int

    def url(self, prefix: str = "deep/er") -> str:
        return f"s3://{self.name}/{prefix}?scheme=http&endpoint_override=127.0.0.1:{self.port}&region=eu-west-1"

    def objects(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [item["Key"] for item in found if not item["Key"].endswith("/")]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def bucket(port, monkeypatch, request) -> Bucket:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="eu-west-1")
    name = f"bucket-{abs(hash(request.node.nodeid))}"
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return Bucket(client, name, port)


def life(folder, **overrides: Any) -> tuple[dict[int, tuple[str, ...]], list[Any], hybridmu.System]:
    """Train, forget, prove, predict; return the hashes of every checkpoint, the predictions and the closed system."""
    overrides |= {"data": {"group": "person"}, "sisa": {"shards": 2, "slices": 2}, "policy": {"verify_share": 0.0}}
    with support.local_system(folder, **overrides) as system:
        system.train()
        system.forget(ids=[3, 4], groups=["p1"], strategy="retrain", wait=True)
        system.forget(ids=[11], strategy="dpus", wait=True)
        if system.site.storage.local is None:  # the hashes below say it of the disk
            assert system.verify()["exact_claims_hold"] is True
        assert system.plan(ids=[20]).shards
        answer = system.predict([{f"x{i}": 0.5 * i for i in range(4)}])
        version = system.registry.version()
        made = {
            sub.shard: tuple(ref.split("/")[1] for ref in (*(r.blob for r in sub.checkpoints), sub.blob or "/"))
            for sub in version.shards
        }
        return made, answer["predictions"], system


@pytest.mark.slow
def test_a_whole_life_on_s3_gives_the_same_bits_as_on_a_disk(bucket, tmp_path, make_table):
    make_table(80, groups=30)
    database = f"sqlite:///{tmp_path / 'ledger' / 'l.sqlite3'}"
    keys = {"folder": str(tmp_path / "keys")}
    on_disk = life(tmp_path)
    on_s3 = life(tmp_path, storage_url=bucket.url(), database_url=database, keys=keys)
    assert on_s3[:2] == on_disk[:2]
    assert not on_s3[2].site.storage.local
    names = {file.name.rpartition("/")[2] for file in on_disk[2].site.storage.list("blobs")}
    assert names == {file.name.rpartition("/")[2] for file in on_s3[2].site.storage.list("blobs")}
    assert all(key.startswith("deep/er/") for key in bucket.objects())
    assert on_s3[2].site.storage.drop_stale_staging() == 0


def test_storage_on_s3_does_what_it_does_on_a_disk(bucket):
    storage = Storage(bucket.url())
    assert storage.list() == []
    storage.write("x/y.bin", b"1")
    storage.write("x/y.bin", b"22")
    storage.write("x/deep/z.bin", b"")
    storage.write("xx", b"4444")
    assert storage.read("x/y.bin") == b"22"
    assert [(f.name, f.size) for f in storage.list()] == [("x/deep/z.bin", 0), ("x/y.bin", 2), ("xx", 4)]
    assert [f.name for f in storage.list("x")] == ["x/deep/z.bin", "x/y.bin"]
    assert abs(storage.list("x")[0].mtime_ns / 1e9 - time.time()) < 60
    assert (storage.exists("x/y.bin"), storage.exists("x"), storage.exists("q")) == (True, False, False)
    assert storage.size("x/y.bin") == 2
    for look in (storage.read, storage.size, storage.version):
        with pytest.raises(FileNotFoundError):
            look("q")
    storage.delete("x/y.bin", "x/never.bin")
    assert bucket.objects() == ["deep/er/x/deep/z.bin", "deep/er/xx"]
    storage.delete_folder("x")
    storage.delete_folder("x")
    assert bucket.objects() == ["deep/er/xx"]


@pytest.mark.slow
def test_publishing_from_this_machine_streams_a_file(bucket):
    storage = Storage(bucket.url())
    data = bytes(range(256)) * 60_000  # more than one part of an upload
    with storage.staging() as folder:
        (folder / "big").write_bytes(data)
        storage.publish(folder / "big", "lake/big")
        assert not (folder / "big").exists()
    assert not folder.exists()
    assert storage.read("lake/big") == data
    assert list_noncurrent(bucket.url()) == []


@pytest.mark.slow
def test_a_reader_sees_the_old_or_the_new_object_never_a_mixture(bucket):
    writer, reader = Storage(bucket.url()), Storage(bucket.url())
    contents = [bytes([i]) * (11_000_000 if i % 2 else 5) for i in range(8)]
    writer.write("a", contents[0])
    done = threading.Event()

    def overwrite() -> None:
        for content in contents[1:]:
            writer.write("a", content)
        done.set()

    thread = threading.Thread(target=overwrite)
    thread.start()
    seen = set()
    while not done.is_set():
        with suppress(_ReplacedError):  # again and again while it was read
            found = reader.read("a")
            assert found in contents
            seen.add(found[0])
    thread.join()
    assert seen
    assert reader.read("a") == contents[-1]


def test_key_columns_of_a_rewritten_object_are_not_served_stale(bucket):
    storage = Storage(bucket.url())

    def publish(first: int) -> int:
        digests = pa.array([bytes([first] * 16)], pa.binary(16))
        table = pa.table({"_slice": pa.array([1], pa.int32()), "_id": digests, "_group": digests, "_content": digests})
        with storage.staging() as folder:
            pq.write_table(table, folder / "t", **writing(table.schema))
            publish_parquet(storage, folder / "t", "lake/t.parquet")
        assert key_columns(storage, "lake/t.parquet").ids[0, 0] == first
        return storage.size("lake/t.parquet")

    # Some have the size of the one before (a checksum takes a byte more or less), within one second of S3's clock.
    assert any(size == before for before, size in pairwise([publish(first) for first in range(1, 9)]))


def test_blobs_on_s3_are_swept_by_shard(bucket):
    blobs = Blobs(Storage(bucket.url()))
    refs = {blobs.put({"w": torch.full((2,), float(i))}, 1) for i in range(3)}
    other = blobs.put({"w": torch.zeros(2)}, 2)
    key = "ab" * 24
    blobs.record(1, key, min(refs))
    assert blobs.listed(1) == (refs, {key})
    assert blobs.find(1, key) == min(refs)
    blobs.drop(1, refs, {key})
    assert blobs.listed(1) == (set(), set())
    assert blobs.listed(2) == ({other}, set())


def test_scores_of_audits_on_s3_go_with_their_shard(bucket):
    kept = Audits(Storage(bucket.url()))
    for shard, name, number in [(1, "aa-1", 0), (1, "aa-1", 7), (1, "aa-2", 0), (1, "bb-1", 0), (2, "aa-1", 0)]:
        kept.keep(shard, name, number, f'"{shard} {name} {number}"')
    assert kept.kept(1, "aa-1") == {0: '"1 aa-1 0"', 7: '"1 aa-1 7"'}
    last = "audits/shard-00001/aa-1/000007.json"
    whole = kept.storage.read(last)
    for other in (whole.replace(b"aa-1 7", b"aa-1 8"), kept.storage.read(last.replace("7.", "0.")), b"1", whole[:-1]):
        kept.storage.write(last, other)  # another's scores, or damaged ones, are as good as none
        assert kept.kept(1, "aa-1").keys() == {0}
    kept.storage.write(last, whole)
    assert kept.drop(1, but="aa") == 1
    assert kept.drop(1, only="aa-2") == 1
    assert (kept.kept(1, "aa-2"), len(kept.kept(1, "aa-1"))) == ({}, 2)
    assert kept.drop(1) == 2
    assert kept.drop(1) == 0
    assert [file.name for file in kept.storage.list()] == ["audits/shard-00002/aa-1/000000.json"]


@pytest.mark.parametrize("verb", ["exists", "read", "size", "version", "list", "delete", "delete_folder", "write"])
def test_a_missing_bucket_is_named(bucket, verb):
    storage = Storage(bucket.url().replace(bucket.name, "nowhere-at-all"))
    with pytest.raises(StorageError, match=r"no bucket nowhere-at-all|bucket does not exist") as error:
        getattr(storage, verb)("a", *([b"1"] if verb == "write" else []))
    assert "create the bucket" in error.value.remedy


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.sampled
def test_an_endpoint_that_does_not_answer_ends_in_an_error_soon(bucket, monkeypatch, silent):
    monkeypatch.setattr("hybridmu.store.storage.s3.SILENT_SECONDS", 1.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen(20)  # takes connections, and never says a word
        storage = Storage(bucket.url().replace(str(bucket.port), str(listener.getsockname()[1])))
        with pytest.raises(StorageError, match="the endpoint can't be reached"):
            storage.exists("a")  # the limit of this test is longer than any client's patience


def test_a_forbidden_object_is_an_error_not_a_missing_file(bucket):
    # A bucket policy of the endpoint itself would need its whole permission system; a 403 from a real socket will do.
    answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        storage = Storage(bucket.url().replace(str(bucket.port), str(listener.getsockname()[1])))
        with pytest.raises(StorageError, match="permission is denied") as error:
            storage.exists("a")
        assert "s3:GetObject" in error.value.remedy
        listener.shutdown(socket.SHUT_RDWR)


def test_training_on_a_dead_endpoint_is_a_clear_error(bucket, tmp_path, make_table):
    make_table(20)
    options = {"database_url": f"sqlite:///{tmp_path}/l.sqlite3", "keys": {"folder": str(tmp_path / "keys")}}
    with (
        support.local_system(tmp_path, storage_url=bucket.url().replace(str(bucket.port), "1"), **options) as system,
        pytest.raises(StorageError, match="the endpoint can't be reached"),
    ):
        system.train()


def test_storage_on_s3_needs_a_database_elsewhere(bucket, tmp_path, make_table):
    make_table(20)
    with (
        support.local_system(tmp_path, storage_url=bucket.url(), keys={"folder": str(tmp_path / "keys")}) as system,
        pytest.raises(ConfigError, match="database_url"),
    ):
        system.train()


# ---------------------------------------------------------------------- old versions of objects


@pytest.fixture
def versioned(bucket) -> Bucket:
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    return bucket


def test_old_versions_are_listed_and_deleted_and_current_ones_stay(versioned):
    url = versioned.url()
    storage = Storage(url)
    for content in (b"1", b"22", b"333"):
        storage.write("blobs/shard-00001/a", content)
    storage.write("blobs/shard-00001/gone", b"4444")
    storage.delete("blobs/shard-00001/gone")
    storage.write("blobs/shard-00002/b", b"1")
    storage.write("blobs/shard-00002/b", b"2")
    found = list_noncurrent(url, "blobs/shard-00001/")
    assert [(x.name.rpartition("/")[2], x.kind, x.size) for x in found if x.name.endswith(("/a", "/gone"))] == [
        *[("a", "version", size) for size in (x.size for x in found if x.name.endswith("/a"))],
        ("gone", "marker", 0),
        ("gone", "version", 4),
    ]
    assert sorted(x.size for x in found if x.name.endswith("/a")) == [1, 2]
    assert delete_noncurrent(url, {x.name for x in found}) == len(found)
    assert list_noncurrent(url, "blobs/shard-00001/") == []
    assert [(x.name, x.kind) for x in list_noncurrent(url)] == [("blobs/shard-00002/b", "version")]
    assert storage.read("blobs/shard-00001/a") == b"333"
    assert not storage.exists("blobs/shard-00001/gone")
    assert delete_noncurrent(url, set()) == 0


def test_more_versions_than_one_call_deletes(versioned, monkeypatch):
    monkeypatch.setattr("hybridmu.store.storage.object_versions._BATCH", 20)  # S3 takes 1000 at once
    for i in range(43):
        versioned.client.put_object(Bucket=versioned.name, Key="deep/er/a", Body=str(i).encode())
    assert delete_noncurrent(versioned.url(), ["a"]) == 42
    assert Storage(versioned.url()).read("a") == b"42"
    assert list_noncurrent(versioned.url()) == []


def test_names_are_matched_whole_and_within_the_prefix(versioned):
    for key in ("deep/er/a", "deep/er/ab", "deep/other/a"):
        for content in (b"1", b"2"):
            versioned.client.put_object(Bucket=versioned.name, Key=key, Body=content)
    assert [x.name for x in list_noncurrent(versioned.url())] == ["a", "ab"]
    assert delete_noncurrent(versioned.url(), ["a"]) == 1
    assert [x.name for x in list_noncurrent(versioned.url())] == ["ab"]
    assert [x.name for x in list_noncurrent(versioned.url(""))] == ["deep/er/ab", "deep/other/a"]


def test_unfinished_uploads_are_found_and_aborted(bucket):
    started = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="deep/er/lake/t")
    bucket.client.upload_part(
        Bucket=bucket.name, Key="deep/er/lake/t", UploadId=started["UploadId"], PartNumber=1, Body=b"rows"
    )
    assert [(x.name, x.kind) for x in list_noncurrent(bucket.url(), "lake/")] == [("lake/t", "upload")]
    assert delete_noncurrent(bucket.url(), ["lake/t"]) == 1
    assert bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", []) == []


def test_other_storage_has_no_old_versions(tmp_path):
    for url in (str(tmp_path), tmp_path.as_uri()):
        assert list_noncurrent(url, "lake") == []
        assert delete_noncurrent(url, ["lake/a"]) == 0


def test_old_versions_of_a_missing_bucket(bucket):
    url = bucket.url().replace(bucket.name, "nowhere-at-all")
    with pytest.raises(StorageError, match="the bucket does not exist"):
        list_noncurrent(url)


def test_without_boto3_the_check_is_refused(bucket, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] in {"boto3", "botocore"}:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(StorageError, match="without boto3") as error:
        list_noncurrent(bucket.url())
    assert "hybridmu[s3]" in error.value.remedy


# ---------------------------------------------------------------------- purging a versioned bucket


@pytest.fixture
def forgetful(versioned, tmp_path, make_table) -> Iterator[hybridmu.System]:
    """A trained system on a versioned bucket whose requests are purged."""
    make_table(60, ids="str")
    with support.local_system(
        tmp_path,
        sisa={"shards": 2, "slices": 2},
        policy={"verify_share": 0.0},
        storage_url=versioned.url(),
        database_url=f"sqlite:///{tmp_path / 'ledger' / 'l.sqlite3'}",
        keys={"folder": str(tmp_path / "keys")},
    ) as system:
        system.train()
        yield system


def every_version(bucket: Bucket) -> dict[str, bytes]:
    """Bytes of every version that the bucket keeps, current or not."""
    listed = bucket.client.list_object_versions(Bucket=bucket.name)
    assert not listed["IsTruncated"]
    asked = [(item["Key"], item["VersionId"]) for item in listed.get("Versions", [])]
    bodies = (bucket.client.get_object(Bucket=bucket.name, Key=key, VersionId=version) for key, version in asked)
    return {f"{key}@{version}": body["Body"].read() for (key, version), body in zip(asked, bodies, strict=True)}


@pytest.mark.slow
def test_no_version_of_any_object_holds_a_purged_row(versioned, forgetful):
    system = forgetful
    found, _ = Lookup(system.site.lake).find([("id", "r3"), ("id", "r4"), ("id", "r5")])
    before = every_version(versioned)
    tables = [name for name in before if "/lake/" in name and "/train/" in name]
    assert any("r3" in pq.read_table(pa.BufferReader(before[name]))["id"].to_pylist() for name in tables)
    upload = f"deep/er/blobs/shard-{found[0].shard:05d}/half"
    versioned.client.create_multipart_upload(Bucket=versioned.name, Key=upload)
    name = system.forget(ids=["r3", "r4", "r5"], strategy="retrain", wait=True)["request_id"]
    assert list_noncurrent(versioned.url()), "rewriting and deleting keeps old versions"
    system.run(until_idle=True)
    assert system.ledger.request(name).state == "PURGED", system.ledger.request(name).reason
    touched = {key.shard for key in found}
    assert [x for x in list_noncurrent(versioned.url()) if any(f"shard-{s:05d}" in x.name for s in touched)] == []
    for name, data in every_version(versioned).items():
        if ".parquet@" in name:
            table = pq.read_table(pa.BufferReader(data))
            values = {
                value for column in table.columns for value in column.to_pylist() if isinstance(value, (str, bytes))
            }
            assert not values & {"r3", "r4", "r5", *(key.key for key in found)}, name
        else:
            assert not any(key.key in data or key.key.hex().encode() in data for key in found), name
    document = Certificates(system.site.storage).last()
    assert document["purge"]["looked"]["storage"]["old_versions"] > 5


@pytest.mark.slow
def test_an_old_version_that_stays_blocks_the_purge(versioned, forgetful, monkeypatch):
    system = forgetful
    monkeypatch.setattr(
        "hybridmu.runtime.purge.storage_scan.delete_noncurrent", lambda *_: 0
    )  # a bucket that retains them
    name = system.forget(ids=["r3"], strategy="retrain", wait=True)["request_id"]
    system.run(until_idle=True)
    request = system.ledger.request(name)
    assert (request.state, request.certificate) == ("SERVED", None)
    assert "old version(s) of purged files are still there" in request.reason


def test_other_shards_at_work_are_left_alone(versioned, forgetful):
    url = versioned.url()
    started = [f"deep/er/{name}" for name in ("blobs/shard-00000/half", "blobs/shard-00001/half", "incoming/half")]
    for upload in started:
        versioned.client.create_multipart_upload(Bucket=versioned.name, Key=upload)
    for shard in (0, 1):
        for content in (b"1", b"2"):
            versioned.client.put_object(Bucket=versioned.name, Key=f"deep/er/blobs/shard-{shard:05d}/x", Body=content)
    drop_old_versions(forgetful.site.lake, {1})
    assert {(x.name, x.kind) for x in list_noncurrent(url)} == {
        ("blobs/shard-00000/half", "upload"),
        ("incoming/half", "upload"),
        ("blobs/shard-00000/x", "version"),
    }


def test_a_table_in_a_bucket_is_read_by_the_same_rules(bucket):
    made = support.table(60, groups=6)
    fs, root = open_fs(bucket.url())
    url = bucket.url("deep/er/t")
    for number in range(3):
        fs.create_dir(f"{root}/t/day={number}")
        pq.write_table(made.slice(number * 20, 20), f"{root}/t/day={number}/_part.parquet", filesystem=fs)
    rows = [row for batch in open_table(url).batches(["id", "day"]) for row in batch.to_pylist()]
    assert {row["id"]: row["day"] for row in rows} == {number: number // 20 for number in range(60)}
    for mark, kind in (("_delta_log/0.json", "Delta"), ("metadata/v1.metadata.json", "Iceberg"), (".hoodie/x", "Hudi")):
        for place in ("t", "t/day=1", ""):
            where = f"{root}/{place}/{mark}".replace("//", "/")
            fs.create_dir(where.rpartition("/")[0])
            with fs.open_output_stream(where) as file:
                file.write(b"{}")
            with pytest.raises(DataError, match=kind):
                open_table(url)
            fs.delete_dir(where.rpartition("/")[0])
    with pytest.raises(DataError, match="does not exist"):
        open_table(bucket.url("nowhere"))
