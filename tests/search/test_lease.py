"""Two drivers never write one study."""

import multiprocessing
import os
import threading
import time
from dataclasses import asdict

import pytest

from search.errors import LeaseError
from search.study import lease, storage
from search.study.lease import hold_lease


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)


@pytest.fixture(params=["folder", "memory"])
def folder(request, tmp_path, quick):
    if request.param == "folder":
        return f"{tmp_path}/study/lease"
    return f"memory://{tmp_path.name}/study/lease"


def test_a_second_driver_is_told_who_holds_the_lease(folder):
    with hold_lease(folder) as held:
        with (
            pytest.raises(LeaseError, match=f"in use: process {os.getpid()} on"),
            hold_lease(folder),
        ):
            pass
        held.check()


def test_a_released_lease_is_free_at_once(folder, monkeypatch):
    with hold_lease(folder):
        pass
    monkeypatch.setattr(lease, "LEASE_SECONDS", 60)
    with hold_lease(folder) as second:
        second.check()
        assert second.claim.number == 2
    assert len(storage.list_names(folder)) == 1


def abandoned(folder, monkeypatch):
    """A lease whose driver is gone, on another machine."""
    monkeypatch.setattr(lease, "_machine", lambda: ["elsewhere", "pid:[1]"])
    gone = lease.Lease(folder, lease._claim(folder))
    monkeypatch.undo()
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)
    return gone


def test_a_dead_drivers_lease_is_over_after_the_lease_time(folder, monkeypatch):
    abandoned(folder, monkeypatch)
    started = time.monotonic()
    with hold_lease(folder):
        assert time.monotonic() - started >= lease.LEASE_SECONDS


def test_a_driver_that_lost_its_lease_is_fenced_out(folder, monkeypatch):
    slept = abandoned(folder, monkeypatch)
    with hold_lease(folder) as held:
        held.check()
        with pytest.raises(LeaseError, match=f"process {os.getpid()} .* has taken over"):
            slept.check()
    with pytest.raises(LeaseError):
        slept.check()


def test_a_process_of_this_machine_that_ended_holds_nothing(folder, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 60)
    monkeypatch.setattr(lease, "_start_time", lambda pid: "1")
    lease.Lease(folder, lease._claim(folder))
    monkeypatch.undo()
    with hold_lease(folder) as held:
        held.check()


def test_a_foreign_file_in_the_folder_is_left_alone(folder):
    for name in ("notes.txt", "x-y.json", "0000000007-torn.json"):
        storage.write_whole(f"{folder}/{name}", b"{")
    with hold_lease(folder) as held:
        assert held.claim.number == 8
        assert {"notes.txt", "x-y.json"} <= set(storage.list_names(folder))


def compete(folder, barrier, answers, held_all):
    lease.LEASE_SECONDS, lease.HEARTBEAT_SECONDS = 3.0, 0.1
    barrier.wait()
    try:
        with hold_lease(folder):
            answers.put("held")
            held_all.wait(20)
    except LeaseError as error:
        answers.put(str(error))


def test_of_many_that_start_at_once_exactly_one_holds_the_lease(tmp_path):
    context = multiprocessing.get_context("spawn")
    count = 4
    for turn in range(2):
        barrier, answers = context.Barrier(count), context.Queue()
        done = context.Event()
        arguments = (f"{tmp_path}/{turn}/lease", barrier, answers, done)
        processes = [context.Process(target=compete, args=arguments) for _ in range(count)]
        for process in processes:
            process.start()
        found = [answers.get(timeout=30) for _ in processes]
        done.set()
        for process in processes:
            process.join()
        assert found.count("held") == 1, found
        assert all("in use: process" in answer for answer in found if answer != "held"), found


def test_threads_at_once_do_not_hold_it_together_either(folder):
    holders, most, lock = [], [], threading.Lock()

    def run():
        try:
            with hold_lease(folder):
                with lock:
                    holders.append(1)
                    most.append(len(holders))
                time.sleep(0.3)
                with lock:
                    holders.pop()
        except LeaseError:
            pass

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_a_claim_that_is_withdrawn_while_it_is_read_ends_no_other(folder, monkeypatch):
    with hold_lease(folder) as held:
        rival = lease.Claim(**{**asdict(held.claim), "token": "zzzzzzzz"})  # is listed last
        lease._write(folder, rival)
        read = lease._read

        def read_too_late(place, name):
            storage.remove(storage.join(place, rival.name))
            return read(place, name)

        monkeypatch.setattr(lease, "_read", read_too_late)
        with pytest.raises(LeaseError, match="in use"), hold_lease(folder):
            pytest.fail("two drivers hold the lease")


def test_a_driver_that_was_slow_to_write_a_lower_number_is_seen(folder, monkeypatch):
    with hold_lease(folder):
        waited = lease._wait_for_end
        answers = [(1, "")]  # as if the holder had written only after this look

        def looked_too_early(place):
            return answers.pop() if answers else waited(place)

        monkeypatch.setattr(lease, "_wait_for_end", looked_too_early)
        with pytest.raises(LeaseError, match="in use"), hold_lease(folder):
            pytest.fail("two drivers hold the lease")
