"""Storages that refuse."""

from __future__ import annotations

import subprocess
import time

from bench.fault_cases.bench import (
    Bench,
    CaseError,
    Result,
    end_of,
    from_zero,
    lost,
    rows_of,
    under_way,
    wait_until,
)


def disk(bench: Bench) -> Result:
    """Fill the disk, then make room and go on."""
    place = bench.folder / "small-disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False).returncode:
        raise CaseError("not run: no right to mount a small disk")
    try:
        sweep, study = bench.sweep("disk", storage=str(place)), place / "disk"
        code, output = bench.run(sweep)
        seen, left = rows_of(study), under_way(study)
        if code != 3 or "disk is full" not in output or "Traceback" in output:
            raise CaseError(f"exit {code}\n{output}")
        subprocess.run(["mount", "-o", "remount,size=50m", str(place)], check=True)
        bench.finish(sweep)
        rows = rows_of(study)
        said = output.strip().splitlines()[-1].replace(f"{study}/", "")
        return bench.result(
            "disk full; room made, started again", study, lost=lost(seen, rows),
            from_zero=from_zero(rows, left), said=said,
        )  # fmt: skip
    finally:
        subprocess.run(["umount", str(place)], check=False)


def storage(bench: Bench) -> Result:
    """Let an object store refuse everything for 30 seconds."""
    from s3_double import S3Double

    with S3Double("bucket") as double:
        process = bench.start(bench.sweep("storage", storage="s3://bucket"), **double.environment)
        prefix = "bucket/storage/rows/"
        wait_until(lambda: sum(n.startswith(prefix) for n in list(double.objects)) > 2, process)
        seen = {name for name in list(double.objects) if name.startswith(prefix)}
        double.refuse(30.0)
        before = len(double.requests)
        time.sleep(30.0)
        refused = len(double.requests) - before
        end_of(process)
        rows = bench.folder / "storage" / "rows"
        rows.mkdir(parents=True)
        for name, content in double.objects.items():
            if name.startswith(prefix) and name.endswith(".json"):
                (rows / name.rpartition("/")[2]).write_bytes(content)
    gone = sum(not (rows / name.rpartition("/")[2]).exists() for name in seen)
    said = f"{refused} requests refused"
    return bench.result("S3 refuses everything for 30 s", rows.parent, lost=gone, said=said)
