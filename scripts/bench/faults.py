"""What is lost when something breaks: real sweeps on digits, real signals, a table at the end.

    python scripts/bench/faults.py [--kills 20] [--trials 12] [--folder DIR] [CASE ...]

Every case is compared with an undisturbed sweep of the same seed. Columns: rows that were there
before the fault and not after; trials that began again although they had a checkpoint; rows at the
end, of those asked for; trials whose accuracies differ from the undisturbed sweep's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from trainables.checkpoint import read_head  # noqa: E402

PATIENCE_SECONDS = 900


@dataclass
class Result:
    """One line of the table."""

    fault: str
    rows_lost: int
    from_zero: int
    rows: int
    asked: int
    other_accuracy: int
    note: str = ""


class Bench:
    """Runs sweeps as a user does, in folders of its own."""

    def __init__(self, folder: Path, trials: int, kills: int, seed: int) -> None:
        self.folder, self.trials, self.kills = folder, trials, kills
        self.random = random.Random(seed)  # noqa: S311 - moments of kills
        self.undisturbed: dict[int, dict[str, dict]] = {}

    # --- sweeps ------------------------------------------------------------------------------

    def sweep(self, name: str, *, seed: int = 0, storage: str | None = None, **resources) -> Path:
        """Write a sweep file."""
        spec = {
            "name": name,
            "seed": seed,
            "storage": storage or str(self.folder),
            "data": {"name": "digits"},
            "model": {"factory": "faulty_models:net"},
            "import_paths": [str(Path(__file__).parent)],
            "space": {
                "learning_rate": {"log_uniform": [0.02, 0.2]},
                "batch_size": 64,
                "epochs": 24,
                "pruning_method": "filter",
                "pruning_ratio": {"uniform": [0.1, 0.6]},
                "weight_bits": 8,
            },
            "search": {"method": "random", "trials": self.trials},
            "resources": {"max_concurrent": 2, **resources},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec, sort_keys=False))
        return path

    def start(self, sweep: Path, **environment: str) -> subprocess.Popen[str]:
        """Start a driver."""
        for name in ("ray", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        kept = {
            "TMPDIR": str(self.folder / "tmp"),  # and in it the lock of measurements
            "PARETUNE_CACHE": str(self.folder / "cache"),
            "RAY_TMPDIR": str(self.folder / "ray"),
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "paretune", "run", str(sweep), "--plain"],
            env={**os.environ, **kept, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )

    def run(self, sweep: Path, **environment: str) -> tuple[int, str]:
        """Run a driver to its end."""
        driver = self.start(sweep, **environment)
        output, _ = driver.communicate(timeout=PATIENCE_SECONDS)
        return driver.returncode, output

    def reference(self, seed: int = 0) -> dict[str, dict]:
        """Give the rows of the undisturbed sweep of a seed."""
        if seed not in self.undisturbed:
            name = f"undisturbed-{seed}"
            code, output = self.run(self.sweep(name, seed=seed))
            if code:
                sys.exit(output)
            self.undisturbed[seed] = rows_of(self.folder / name)
        return self.undisturbed[seed]

    def result(self, fault: str, study: Path, *, lost=0, from_zero=0, seed=0, note="") -> Result:
        """Compare a study with the undisturbed one of its seed."""
        rows, whole = rows_of(study), self.reference(seed)
        measured = {i: row for i, row in rows.items() if row["status"] == "measured"}
        other = sum(
            i not in whole or accuracies(row) != accuracies(whole[i])
            for i, row in measured.items()
        )
        return Result(fault, lost, from_zero, len(rows), self.trials, other, note)

    def faulty(
        self, kind: str, times: int, *, environment: dict[str, str] | None = None, **resources
    ) -> tuple[Path, str]:
        """Run a sweep whose workers have a fault; give study and output."""
        marks = self.folder / f"marks-{kind}"
        marks.mkdir()
        planted = {"PARETUNE_FAULT": f"{kind}:{marks}:{times}", **(environment or {})}
        code, output = self.run(self.sweep(kind, **resources), **planted)
        happened = len(list(marks.iterdir()))
        if code or happened != times:
            sys.exit(f"{kind}: exit {code}, the fault happened {happened} times\n{output}")
        return self.folder / kind, output


def rows_of(study: Path) -> dict[str, dict]:
    """Give the rows of a study in a folder, by trial id."""
    return {path.stem: json.loads(path.read_text()) for path in (study / "rows").glob("*.json")}


def accuracies(row: dict) -> list[float]:
    """Give all accuracies of a trial: of each epoch, and of its file."""
    curve = [point["accuracy"] for point in row["curve"]]
    return [*curve, row["metrics"]["accuracy"], row["test_accuracy"]]


def under_way(study: Path) -> dict[str, int]:
    """Give the epochs in the checkpoints of a study, by trial id."""
    heads = {path.stem: read_head(str(path)) for path in (study / "running").glob("*.ckpt")}
    return {trial_id: len(head["curve"]) for trial_id, head in heads.items() if head}


def kept_going(rows: dict[str, dict], left: dict[str, int]) -> int:
    """Count trials that had a checkpoint and yet began again, or from an earlier epoch."""
    return sum(
        max(rows[i]["resumed_from"], default=0) < epochs for i, epochs in left.items() if i in rows
    )


# --- cases -----------------------------------------------------------------------------------


def driver(bench: Bench) -> Result:
    """Kill the driver at random moments, and start it again."""
    kills, seed, lost, from_zero, others = 0, 0, 0, 0, []
    while kills < bench.kills:
        name = f"driver-{seed}"
        sweep, study = bench.sweep(name, seed=seed), bench.folder / name
        left: list[dict[str, int]] = []
        while kills < bench.kills:
            before = rows_of(study)
            ended = _ended_before_kill(bench, bench.start(sweep), study)
            if ended is None:
                continue
            if ended:
                break
            kills += 1
            after = rows_of(study)
            left.append(under_way(study))
            lost += sum(_numbers(after.get(i)) != _numbers(row) for i, row in before.items())
            print(f"  kill {kills}: {len(after)} rows, under way {left[-1]}", flush=True)
        seen = rows_of(study)
        code, output = bench.run(sweep)
        if code:
            sys.exit(output)
        rows = rows_of(study)
        lost += sum(_numbers(rows.get(i)) != _numbers(row) for i, row in seen.items())
        from_zero += sum(kept_going(rows, snapshot) for snapshot in left)
        others.append(bench.result("", study, seed=seed))
        seed += 1
    return Result(
        f"driver killed {kills} times",
        lost,
        from_zero,
        sum(r.rows for r in others),
        sum(r.asked for r in others),
        sum(r.other_accuracy for r in others),
        f"{len(others)} studies",
    )


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
    sys.exit(output)


def _numbers(row: dict | None) -> dict | None:
    """Give a row without what the end of a sweep changes in it.

    The file of a model that leaves the front goes; that of one that stays is measured again.
    """
    if row is None:
        return None
    kept = {k: v for k, v in row.items() if k not in ("artifact", "latency", "measured_alone")}
    return {**kept, "metrics": {k: v for k, v in row["metrics"].items() if k != "latency_ms"}}


def worker(bench: Bench) -> Result:
    """Kill workers in the middle of training."""
    study, output = bench.faulty("worker", 3)
    rows = rows_of(study)
    resumed = [row["resumed_from"] for row in rows.values() if row["resumed_from"]]
    epochs = sorted(epoch for several in resumed for epoch in several)
    note = f"went on after epochs {epochs}; said {output.count('goes on')} times"
    return bench.result("worker killed, 3 times", study, from_zero=3 - len(epochs), note=note)


def memory(bench: Bench) -> Result:
    """Let Ray's memory monitor kill a worker that takes all memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    threshold = 1 - (kib["MemAvailable"] - 3 * 2**20) / kib["MemTotal"]
    monitor = {
        "RAY_memory_usage_threshold": f"{threshold:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    study, output = bench.faulty("memory", 1, environment=monitor)
    resumed = sum(bool(row["resumed_from"]) for row in rows_of(study).values())
    said = next((line.strip() for line in output.splitlines() if "goes on" in line), "")
    return bench.result("out of memory", study, from_zero=1 - min(resumed, 1), note=said)


def hang(bench: Bench) -> Result:
    """Let a worker hang."""
    study, output = bench.faulty("hang", 1, trial_timeout_seconds=20.0)
    resumed = sum(bool(row["resumed_from"]) for row in rows_of(study).values())
    said = next((line.strip() for line in output.splitlines() if "goes on" in line), "")
    return bench.result("hang", study, from_zero=1 - min(resumed, 1), note=said)


def _own_fault(bench: Bench, kind: str, status: str) -> Result:
    study, _ = bench.faulty(kind, 1)
    failed = [row for row in rows_of(study).values() if row["status"] == status]
    if len(failed) != 1:
        sys.exit(f"{kind}: {len(failed)} rows are {status}")
    return bench.result(kind, study, note=f"{status}: {failed[0]['reason'][:60]}")


def exception(bench: Bench) -> Result:
    """Raise an error in a trial."""
    return _own_fault(bench, "exception", "failed")


def nan(bench: Bench) -> Result:
    """Spoil the weights of a trial."""
    return _own_fault(bench, "nan", "diverged")


def gpu_memory(bench: Bench) -> Result:
    """Raise what torch raises when a GPU is full."""
    return _own_fault(bench, "gpu-memory", "failed")


def node(bench: Bench) -> Result:
    """Kill a node of a Ray cluster of three, with all its processes."""
    from ray.cluster_utils import Cluster

    os.environ.update(RAY_TMPDIR=str(bench.folder / "ray"), HOME=str(bench.folder))
    os.environ["RAY_AUTH_MODE"] = "disabled"
    (bench.folder / "ray").mkdir(exist_ok=True)
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["PARETUNE_CACHE"] = str(bench.folder / "cache")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
        cluster.wait_for_nodes()
        study = bench.folder / "node"
        process = bench.start(bench.sweep("node", max_concurrent=3), RAY_ADDRESS=cluster.address)
        while not rows_of(study) or len(under_way(study)) < 2:
            if process.poll() is not None:
                sys.exit(process.communicate()[0])
            time.sleep(0.1)
        seen, left = rows_of(study), under_way(study)
        cluster.remove_node(nodes[0], allow_graceful=False)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        cluster.shutdown()
    if process.returncode:
        sys.exit(output)
    rows = rows_of(study)
    lost = sum(_numbers(rows.get(i)) != _numbers(row) for i, row in seen.items())
    lines = [line.strip() for line in output.splitlines() if "goes on from" in line]
    from_zero = sum(not rows[i]["resumed_from"] for i in (line[:8] for line in lines) if i in left)
    note = f"on 2 of 3 nodes: {lines[0]}" if lines else "no trial was on it"
    return bench.result("node killed", study, lost=lost, from_zero=from_zero, note=note)


def disk(bench: Bench) -> Result:
    """Fill the disk, then make room and go on."""
    place = bench.folder / "small-disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False).returncode:
        return Result("disk full", 0, 0, 0, 0, 0, "not run: no right to mount a small disk")
    try:
        sweep, study = bench.sweep("disk", storage=str(place)), place / "disk"
        code, output = bench.run(sweep)
        seen, left = rows_of(study), under_way(study)
        if code != 3 or output.count("disk is full") < 1 or "Traceback" in output:
            sys.exit(f"disk: exit {code}\n{output}")
        said = output.strip().splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=50m", str(place)], check=True)
        code, output = bench.run(sweep)
        if code:
            sys.exit(output)
        rows = rows_of(study)
        lost = sum(_numbers(rows.get(i)) != _numbers(row) for i, row in seen.items())
        return bench.result(
            "disk full", study, lost=lost, from_zero=kept_going(rows, left), note=said
        )
    finally:
        subprocess.run(["umount", str(place)], check=False)


def storage(bench: Bench) -> Result:
    """Let an object store refuse everything for 30 seconds."""
    from s3_double import S3Double

    with S3Double("bucket") as double:
        sweep = bench.sweep("storage", storage="s3://bucket")
        process = bench.start(sweep, **double.environment)
        rows_prefix = "bucket/storage/rows/"
        while sum(name.startswith(rows_prefix) for name in list(double.objects)) < 3:
            if process.poll() is not None:
                sys.exit(process.communicate()[0])
            time.sleep(0.1)
        seen = {n: c for n, c in dict(double.objects).items() if n.startswith(rows_prefix)}
        double.refuse(30.0)
        refused_from = len(double.requests)
        time.sleep(30.0)
        refused = len(double.requests) - refused_from
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        if process.returncode:
            sys.exit(output)
        study = bench.folder / "storage"
        (study / "rows").mkdir(parents=True)
        for name, content in double.objects.items():
            if name.startswith(rows_prefix) and name.endswith(".json"):
                (study / "rows" / name.rpartition("/")[2]).write_bytes(content)
    lost = sum(not (study / "rows" / name.rpartition("/")[2]).exists() for name in seen)
    return bench.result(
        "storage refuses for 30 s", study, lost=lost, note=f"S3; {refused} requests refused"
    )


CASES: dict[str, Callable[[Bench], Result]] = {
    "exception": exception,
    "nan": nan,
    "gpu-memory": gpu_memory,
    "worker": worker,
    "memory": memory,
    "hang": hang,
    "node": node,
    "disk": disk,
    "storage": storage,
    "driver": driver,
}


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--kills", type=int, default=20, help="of the driver")
    parser.add_argument("--trials", type=int, default=12, help="of each sweep")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    wrong = set(options.cases) - set(CASES)
    if wrong:
        parser.error(f"no case {', '.join(wrong)}; allowed: {', '.join(CASES)}")
    print(f"{'fault':30} lost  from 0  rows    other accuracy  note")
    failed = False
    with tempfile.TemporaryDirectory(prefix="f-") as folder:
        bench = Bench(Path(folder), options.trials, options.kills, options.seed)
        for name in options.cases or CASES:
            r = CASES[name](bench)
            numbers = (
                f"{r.rows_lost:4}  {r.from_zero:6}  {r.rows:3}/{r.asked:<3} {r.other_accuracy:14}"
            )
            print(f"{r.fault:30} {numbers}  {r.note}", flush=True)
            failed |= bool(r.rows_lost or r.from_zero or r.other_accuracy or r.rows != r.asked)
            print(json.dumps(asdict(r)), file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
