"""Drivers and nodes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from bench.fault_cases.bench import (
    PATIENCE_SECONDS,
    Bench,
    CaseError,
    Result,
    end_of,
    from_zero,
    line_with,
    lost,
    rows_of,
    under_way,
    wait_until,
)


def driver(bench: Bench) -> Result:
    """Kill the driver at random moments, and start it again, until it comes to its end."""
    kills, studies = 0, []
    while kills < bench.kills:
        result, more = _killed_until_done(bench, len(studies), bench.kills - kills)
        kills += more
        studies.append(result)
    return Result(
        f"SIGKILL of the driver, {kills} times",
        sum(r.lost for r in studies),
        sum(r.from_zero for r in studies),
        sum(r.rows for r in studies),
        sum(r.asked for r in studies),
        sum(r.other_accuracies for r in studies),
        f"{len(studies)} sweeps, each went on to its end",
    )


def _killed_until_done(bench: Bench, seed: int, most: int) -> tuple[Result, int]:
    """Kill the drivers of one sweep until one comes to its end; tell how many were killed."""
    name = f"driver-{seed}"
    sweep, study = bench.sweep(name, seed=seed), bench.folder / name
    left: list[dict[str, int]] = []
    gone = 0
    while len(left) < most:
        before = rows_of(study)
        ended = _ended_before_kill(bench, bench.start(sweep), study)
        if ended:
            break
        if ended is None:
            continue
        left.append(under_way(study))
        gone += lost(before, rows_of(study))
    seen = rows_of(study)
    bench.finish(sweep)
    rows = rows_of(study)
    gone += lost(seen, rows)
    again = sum(from_zero(rows, snapshot) for snapshot in left)
    return bench.result("", study, lost=gone, from_zero=again, seed=seed), len(left)


def _ended_before_kill(bench: Bench, process: subprocess.Popen[str], study: Path) -> bool | None:
    """Kill a driver at a random moment after its first sign of work; tell if it ended before.

    None: on a busy machine, Ray sometimes does not start.
    """
    mark = time.time()
    early = bench.random.random() < 0.2  # while it still starts
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not early and process.poll() is None and time.monotonic() < deadline:
        files = [*(study / "running").glob("*"), *(study / "rows").glob("*")]
        if any(path.stat().st_mtime > mark for path in files if path.exists()):
            break
        time.sleep(0.1)
    try:
        process.wait(bench.random.uniform(0.0, 6.0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    output, _ = process.communicate()
    if process.returncode == 0:
        return True
    if "Ray did not start" in output:
        return None
    raise CaseError(output)


def eviction(bench: Bench) -> Result:
    """Ask the driver to leave, as Kubernetes does when it needs the node, and start it again."""
    sweep, study = bench.sweep("eviction"), bench.folder / "eviction"
    process = bench.start(sweep)
    wait_until(lambda: bool(rows_of(study)) and bool(under_way(study)), process)
    seen, left, asked = rows_of(study), under_way(study), time.monotonic()
    process.send_signal(signal.SIGTERM)
    end_of(process, 130)
    seconds = time.monotonic() - asked
    bench.finish(sweep)
    rows = rows_of(study)
    return bench.result(
        "SIGTERM to the driver", study, lost=lost(seen, rows), from_zero=from_zero(rows, left),
        said=f"left after {seconds:.1f} s with code 130",
    )  # fmt: skip


def node(bench: Bench) -> Result:
    """Kill a node of a Ray cluster of three, with all its processes."""
    from ray.cluster_utils import Cluster

    for name in ("ray", "tmp"):
        (bench.folder / name).mkdir(exist_ok=True)
    os.environ.update(bench.environment, RAY_AUTH_MODE="disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
        cluster.wait_for_nodes()
        study = bench.folder / "node"
        process = bench.start(bench.sweep("node", max_concurrent=3), RAY_ADDRESS=cluster.address)
        wait_until(lambda: bool(rows_of(study)) and len(under_way(study)) > 1, process)
        seen, left = rows_of(study), under_way(study)
        cluster.remove_node(nodes[0], allow_graceful=False)
        output = end_of(process)
    finally:
        cluster.shutdown()
    rows = rows_of(study)
    lines = [line.strip() for line in output.splitlines() if "goes on from" in line]
    again = sum(not rows[i]["resumed_from"] for i in (line[:8] for line in lines) if i in left)
    said = line_with(output, "goes on from")[9:] or "no trial was on it"
    return bench.result(
        "SIGKILL of one node of 3", study, lost=lost(seen, rows), from_zero=again, said=said
    )
