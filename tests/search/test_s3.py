"""A study in an object store: the double's, or the server that PARETUNE_TEST_S3 names."""

import os
import time
import urllib.request
import uuid

import pytest
from made_rows import made_row
from s3_double import S3Double
from tensorboard_client import tensorboard

from search.errors import LeaseError, StorageError
from search.observer import SweepPlan
from search.spec.spec import SweepSpec
from search.study import lease, storage
from search.study.lease import hold_lease
from search.study.study import Study
from search.tensorboard import events
from search.tensorboard.log import TensorBoardLog
from trainables import storage as files
from trainables.checkpoint import load_checkpoint, read_head, save_checkpoint
from trainables.contract import Progress
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


def watched(place: str, *rows) -> TensorBoardLog:
    """Let a log in the store see trials of two epochs; the last is still under way."""
    store, _, name = place.rpartition("/")
    space = {"learning_rate": {"log_uniform": [0.01, 0.1]}}
    spec = SweepSpec.model_validate(
        {"name": name, "storage": store, "data": {"name": "digits"}, "space": space}
    )
    log = TensorBoardLog(spec)
    log.sweep_started(SweepPlan(name, place, 4, (), spec.objective_list, 1))
    for row in rows:
        log.trial_started(row.trial_id, row.config)
        for epoch in (1, 2):
            accuracy = row.metrics["accuracy"] - 0.1 / epoch
            log.epoch_ended(
                row.trial_id, Progress(epoch, accuracy, 1.0, 0.1, 1000, 0.1, 1.0, 0, 1.0, 100)
            )
        if row is not rows[-1]:
            log.trial_ended(row)
    return log


def test_tensorboard_reads_from_the_store_what_a_sweep_under_way_wrote_there(
    place, tmp_path, monkeypatch
):
    monkeypatch.setattr(events, "COPY_EVERY_SECONDS", 0.0)
    ended, running = made_row(1, 0.5, 1000, 0.1), made_row(2, 0.6, 1000, 0.1)
    log = watched(place, ended, running)
    with tensorboard(f"{place}/tensorboard", tmp_path) as server:
        run = f"trials%2F{running.trial_id}"
        curve = server.wait(
            lambda: server.ask(f"plugin/scalars/scalars?run={run}&tag=epoch/accuracy")
        )
        assert [point[1:] for point in curve] == [
            [1, pytest.approx(0.5)],
            [2, pytest.approx(0.55)],
        ]
        sessions = server.sessions()
        assert sessions.keys() == {ended.trial_id, running.trial_id}
        assert sessions[ended.trial_id]["sessions"][0]["status"] == "STATUS_SUCCESS"
    log.sweep_ended(interrupted=False)


@needs_double
def test_a_log_waits_for_a_storage_that_refuses_for_a_while(place, double, monkeypatch):
    monkeypatch.setattr(events, "COPY_EVERY_SECONDS", 0.0)
    log = events.EventLog(f"{place}/run")
    double.refuse(1.0)
    log.scalars({"accuracy": 0.5}, 1)
    log.flush()
    log.scalars({"accuracy": 0.6}, 2)
    log.close()
    assert time.monotonic() > double.refuse_until
    (name,) = storage.list_names(f"{place}/run")
    content = storage.read(f"{place}/run/{name}")
    assert content.count(b"accuracy") == 2
