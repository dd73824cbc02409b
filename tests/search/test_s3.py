"""A study in an object store: the double's, or the server that PARETUNE_TEST_S3 names."""

import os
import time
import urllib.request
import uuid

import pytest
from made_rows import made_row
from s3_double import S3Double

from search.errors import LeaseError, StorageError
from search.study import lease, storage
from search.study.lease import hold_lease
from search.study.study import Study
from trainables import storage as files
from trainables.checkpoint import load_checkpoint, read_head, save_checkpoint
from trainables.s3 import S3Files


@pytest.fixture(scope="module")
def double():
    with S3Double("bucket") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        if other := os.environ.get("PARETUNE_TEST_S3"):
            patch.setenv("AWS_ENDPOINT_URL", other)
            request = urllib.request.Request(f"{other}/bucket", method="PUT")
            urllib.request.urlopen(request).close()
        S3Files.clear_instance_cache()
        yield server
        S3Files.clear_instance_cache()


@pytest.fixture
def place(double) -> str:
    return f"s3://bucket/{uuid.uuid4()}"


needs_double = pytest.mark.skipif(
    "PARETUNE_TEST_S3" in os.environ, reason="no real server refuses on demand"
)


def test_files_are_written_listed_read_and_removed(place):
    for name in ("b.json", "a.json", "deep/c.json"):
        storage.write_whole(f"{place}/rows/{name}", name.encode())
    assert storage.list_names(f"{place}/rows") == ["a.json", "b.json", "deep"]
    assert storage.read_several(f"{place}/rows", ["a.json", "none.json"]) == {
        "a.json": b"a.json", "none.json": None,
    }  # fmt: skip
    storage.remove(f"{place}/rows/a.json")
    storage.remove(f"{place}/rows/a.json")
    assert storage.list_names(f"{place}/rows") == ["b.json", "deep"]
    storage.remove_folder(f"{place}/rows")
    assert not storage.exists(f"{place}/rows/b.json")
    assert storage.list_names(f"{place}/nothing") == []


def test_more_files_than_one_listing_holds(place, double):
    for number in range(1100):
        files.write_whole(f"{place}/rows/{number:08x}.json", b"x")
    assert len(storage.list_names(f"{place}/rows")) == 1100


def test_rows_of_a_study(place):
    study = Study(place)
    rows = [made_row(1, 0.5), made_row(2, 0.6)]
    for row in rows:
        study.write_row(row)
    storage.write_whole(f"{place}/rows/0123abcd.json", b"{torn")
    assert study.rows() == rows
    assert study.skipped_files == ["0123abcd.json"]


def test_checkpoints(place):
    assert load_checkpoint(f"{place}/a.ckpt") is None
    save_checkpoint(f"{place}/a.ckpt", {"epoch": 3}, {"groups": [1, 2]})
    assert load_checkpoint(f"{place}/a.ckpt") == ({"epoch": 3}, {"groups": [1, 2]})
    assert read_head(f"{place}/a.ckpt") == {"epoch": 3}


def test_the_lease(place, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.2)
    with hold_lease(f"{place}/lease") as held:
        with pytest.raises(LeaseError, match="in use"), hold_lease(f"{place}/lease"):
            pass
        held.check()
    with hold_lease(f"{place}/lease"):
        pass


def test_a_missing_bucket_is_said_at_once(double):
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"cannot write s3://nobucket/a"):
        storage.write_whole("s3://nobucket/a", b"x", patience_seconds=60)
    assert time.monotonic() - started < 30


@needs_double
def test_a_missing_permission_is_said_at_once(place, double):
    double.denied = {"PUT"}
    try:
        with pytest.raises(StorageError, match=r"cannot write .*permission denied"):
            storage.write_whole(f"{place}/a", b"x", patience_seconds=60)
    finally:
        double.denied = set()


@needs_double
def test_a_row_waits_for_a_storage_that_refuses_for_a_while(place, double):
    study = Study(place)
    double.refuse(2.0)
    study.write_row(made_row(1, 0.5))
    assert time.monotonic() > double.refuse_until
    assert study.rows() == [made_row(1, 0.5)]
