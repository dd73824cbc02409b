"""Real sweeps that are broken from the outside: nothing finished is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SWEEP = """
name: digits
storage: {storage}
data: {{name: digits}}
space: {{learning_rate: {{log_uniform: [0.02, 0.2]}}, epochs: 200, depth: 2}}
search: {{method: random, trials: 50}}
resources: {{max_concurrent: 1}}
"""


@pytest.mark.soak
def test_lost_drivers_workers_and_nodes_cost_no_row_and_no_trial():
    """A small version of scripts/bench/faults."""
    bench = [sys.executable, str(ROOT / "scripts" / "bench" / "faults.py")]
    ran = subprocess.run(
        [*bench, "--kills", "2", "--trials", "5", "driver", "worker", "node"],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("5/5") == 3


def start(sweep: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "paretune", "run", str(sweep), "--plain"],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_checkpoint(study: Path, since: float, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        files = list((study / "running").glob("*.ckpt"))
        if any(file.stat().st_mtime > since for file in files):
            return
        time.sleep(0.1)
    pytest.fail("no checkpoint came")


def wait_for_lease(study: Path, pid: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for claim in (study / "lease").glob("*.json"):
            with suppress(OSError, ValueError):  # it is being replaced
                if json.loads(claim.read_text())["pid"] == pid:
                    return
        time.sleep(0.1)
    pytest.fail(f"process {pid} does not get the lease")


@pytest.mark.soak
def test_one_driver_works_and_the_other_says_who_does(tmp_path):
    sweep, study = tmp_path / "sweep.yaml", tmp_path / "digits"
    sweep.write_text(SWEEP.format(storage=tmp_path))
    drivers = [start(sweep), start(sweep)]
    try:
        deadline = time.monotonic() + 120
        while all(driver.poll() is None for driver in drivers):
            assert time.monotonic() < deadline, "both drivers run"
            time.sleep(0.1)
        loser = next(driver for driver in drivers if driver.poll() is not None)
        winner = next(driver for driver in drivers if driver is not loser)
        said, _ = loser.communicate(timeout=10)
        assert loser.returncode == 3, said
        assert f"in use: process {winner.pid} on" in said
        wait_for_checkpoint(study, 0.0)
        winner.send_signal(signal.SIGKILL)
        winner.communicate()
        third = start(sweep)
        drivers.append(third)
        # A worker of the killed driver may still write: the lease says when the third has begun.
        wait_for_lease(study, third.pid)
        wait_for_checkpoint(study, time.time())
        third.send_signal(signal.SIGTERM)
        said, _ = third.communicate(timeout=30)
        assert third.returncode == 130, said
        assert list((study / "running").glob("*.ckpt"))
    finally:
        for driver in drivers:
            if driver.poll() is None:
                driver.kill()
                driver.communicate()
