"""What is put in the place of Tune's classes while a sweep runs."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import (
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)
from ray.tune import tune
from ray.tune.execution import tune_controller
from ray.tune.execution.tune_controller import TuneController
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.utils.callback import _create_default_callbacks

from search import controller
from search.controller import (
    MEMORY_KILL,
    HangWatch,
    TolerantActorManager,
    reason_of,
    tolerant_tune,
)
from search.tune_adapter import NoProgress


def test_tune_has_its_own_classes_back_afterwards():
    with tolerant_tune(HangWatch(None), lambda: None):
        assert tune.TuneController is not TuneController
        assert tune_controller.RayActorManager is TolerantActorManager
    assert tune.TuneController is TuneController
    assert tune_controller.RayActorManager is RayActorManager


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfMemoryError("Task was killed due to the node running low on memory."), MEMORY_KILL),
        (WorkerCrashedError(), "The worker died unexpectedly while executing this task."),
    ],
)
def test_every_loss_of_a_worker_is_one_that_tune_retries(monkeypatch, error, said):
    heard = []
    monkeypatch.setattr(
        RayActorManager, "_actor_task_failed", lambda self, task, error: heard.append(error)
    )
    object.__new__(TolerantActorManager)._actor_task_failed(None, error)
    assert isinstance(heard[0], RayActorError)
    assert said in str(heard[0])


def trial(name, error=None, failures=1):
    return SimpleNamespace(
        trial_id=name,
        temporary_state=SimpleNamespace(ray_actor=f"worker of {name}", lost_by=error),
        run_metadata=SimpleNamespace(num_failures=failures),
    )


def test_only_a_trial_without_progress_loses_its_worker(monkeypatch):
    killed, now = [], [0.0]
    monkeypatch.setattr(ray, "kill", killed.append)
    monkeypatch.setattr(controller.time, "monotonic", lambda: now[0])
    watch, slow, quick, starting = (
        HangWatch(10.0),
        trial("slow"),
        trial("quick"),
        trial("starting"),
    )
    watch.saw("slow")
    watch.saw("quick")
    now[0] = 9.0
    watch.saw("quick")
    watch.kill_hung([slow, quick, starting])
    assert killed == []
    now[0] = 11.0
    watch.kill_hung([slow, quick, starting])
    watch.kill_hung([slow, quick, starting])
    assert killed == ["worker of slow"]
    assert watch.forget("slow")
    assert not watch.forget("slow")
    assert not watch.forget("quick")


def test_a_trial_that_waited_its_turn_has_time_again(monkeypatch):
    killed, now, notes = [], [0.0], {"queueing"}
    monkeypatch.setattr(ray, "kill", killed.append)
    monkeypatch.setattr(controller.time, "monotonic", lambda: now[0])
    watch = HangWatch(10.0, lambda name: name in notes)
    watch.saw("queueing")
    for now[0] in (11.0, 20.0, 22.0):
        watch.kill_hung([trial("queueing")])
    assert killed == []
    notes.clear()
    now[0] = 33.0
    watch.kill_hung([trial("queueing")])
    assert killed == ["worker of queueing"]


def test_progress_is_not_printed_by_tune_which_would_keep_every_trial(capsys):
    callbacks = _create_default_callbacks([NoProgress()])
    assert [type(callback) for callback in callbacks].count(TrialProgressCallback) == 0
    quiet = callbacks[0]
    before = sizes(quiet)
    quiet.on_trial_result(1, [], "trial", {"done": False})
    quiet.on_trial_complete(1, [], "trial")
    quiet.on_trial_error(1, [], SimpleNamespace(last_result={}))
    assert sizes(quiet) == before
    assert capsys.readouterr().out == ""


def sizes(callback):
    return {name: len(value) for name, value in vars(callback).items() if hasattr(value, "clear")}


def test_without_a_limit_nothing_is_killed(monkeypatch):
    monkeypatch.setattr(ray, "kill", pytest.fail)
    watch = HangWatch(None)
    watch.saw("slow")
    watch.kill_hung([trial("slow")])


@pytest.mark.parametrize(
    ("error", "failures", "hung", "reason"),
    [
        (RayActorError(error_msg=MEMORY_KILL), 4, None, f"{MEMORY_KILL} (4 times)"),
        (RayActorError(error_msg="The actor died because its node has died. Node Id: 3f"), 1, None,
         "its node was lost"),
        (RayActorError(error_msg="Worker unexpectedly exits\nwith a connection error code 2."), 2,
         None, "its worker died (2 times)"),
        (RayActorError(error_msg="in __init__\nModuleNotFoundError: no module x",
                       actor_init_failed=True), 1, None, "ModuleNotFoundError: no module x"),
        (ActorUnavailableError("The actor is unavailable: Socket closed", b"1" * 16), 1, None,
         "its worker, or its node, cannot be reached any more"),
        (None, 1, None, "its worker died"),
        (RayActorError(error_msg="killed"), 1, 60.0,
         "no progress for 60 seconds (resources.trial_timeout_seconds)"),
    ],
)  # fmt: skip
def test_the_reason_is_one_line_for_people(error, failures, hung, reason):
    assert reason_of(trial("t", error, failures), hung_seconds=hung) == reason


LISTENERS = """
import os, socket, sys
from pathlib import Path
from search.ray_session import ray_session

def descendants(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(c) for task in tasks for c in task.read_text().split()]
    return [pid, *(d for child in children for d in descendants(child))]

with ray_session():
    import ray
    assert ray.util.get_node_ip_address() == "127.0.0.1"
    inodes = set()
    for pid in descendants(os.getpid()):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                pass
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1].split(":")[0])
    print(len(found), sorted(set(found)))
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.slow
def test_ray_listens_on_loopback_only_and_its_token_is_private(tmp_path):
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("ab" * 32)
    token.chmod(0o644)
    ran = subprocess.run(
        [sys.executable, "-c", LISTENERS],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    count, addresses = ran.stdout.strip().split(" ", 1)
    assert int(count) >= 5
    assert set(eval(addresses)) <= LOOPBACK
    assert token.stat().st_mode & 0o777 == 0o600
    assert "ab" * 8 not in ran.stdout + ran.stderr
