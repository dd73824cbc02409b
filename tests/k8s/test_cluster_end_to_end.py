"""A sweep on a cluster, for real: submitted by the command, run by Ray processes, killed, resumed.

Only the API server and KubeRay's operator are doubles; Ray, its dashboard, its token, the driver
and the trials are real.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from decoding import schemas_if_here
from fakeapi import FakeKube
from fakeoperator import FakeOperator, Mounts
from made_sweeps import kubeconfig, written

from trainables.config import TrialConfig

SECONDS = 400
"""For a driver to start on a busy machine."""


@pytest.fixture
def kube():
    with FakeKube(schemas_if_here()) as kube:
        yield kube


@pytest.fixture
def studies(tmp_path):
    return tmp_path / "studies"


@pytest.fixture
def operator(kube, tmp_path, studies):
    mounts = Mounts({
        "/studies": studies, "/etc/paretune": tmp_path / "etc", "/cache": tmp_path / "cache",
        "/tmp": tmp_path / "home",
    })  # fmt: skip
    with FakeOperator(kube, mounts) as operator:
        yield operator
    assert operator.errors == []


@pytest.fixture
def paretune(kube, tmp_path):
    """Run the command as a person does; give the finished process."""
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig(tmp_path, kube.url)),
        "PARETUNE_CACHE": str(tmp_path / "cache"),
    }

    def run(*arguments, **variables):
        return subprocess.run(
            [sys.executable, "-m", "paretune", *map(str, arguments)],
            env=environment | variables, capture_output=True, text=True, check=False,
            timeout=2 * SECONDS,
        )  # fmt: skip

    return run


def sweep_file(folder, *, trials, epochs, **cluster):
    workers = [
        {"name": "cpu", "cpus": 2, "memory_gib": 2, "gpus": 0, "min_workers": 1, "max_workers": 1}
    ]
    path = written(folder, workers=workers, **cluster)
    sweep = yaml.safe_load(path.read_text())
    sweep["search"]["trials"] = trials
    sweep["space"]["epochs"] = epochs
    path.write_text(yaml.safe_dump(sweep))
    return path


def rows_of(study):
    return {path.name: path.read_bytes() for path in (study / "rows").glob("*.json")}


def wait_for(condition, kube, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        jobs = [kube.object("rayjobs", name) or {} for name in kube.names("rayjobs")]
        found = [job.get("status") or {} for job in jobs]
        failed = any(status.get("jobDeploymentStatus") == "Failed" for status in found)
        if failed or time.monotonic() > deadline:
            pytest.fail(json.dumps(found, indent=1))
        time.sleep(0.1)


@pytest.mark.soak
def test_a_sweep_survives_its_head_a_stop_and_a_resume(
    kube, operator, paretune, studies, tmp_path
):
    note = 'cost $(HOME) `id` "x"\nü'
    sweep = sweep_file(tmp_path, trials=10, epochs=8, env={"PARETUNE_TEST_NOTE": note})
    study = studies / "digits"
    assert paretune("k8s", "submit", sweep).returncode == 0

    # Rows appear in the storage; then the head dies, and with it the driver.
    wait_for(lambda: len(rows_of(study)) >= 2, kube)
    variables = driver_variables(operator, "digits")
    assert variables["PARETUNE_TEST_NOTE"] == note
    operator.clusters["digits"].kill_head()
    before = rows_of(study)
    assert len(before) < 10

    # The same study goes on. A stop ends it in order; the rows stay.
    wait_for(lambda: len(rows_of(study)) > len(before), kube)
    shown = paretune("k8s", "status", "digits", "--json")
    found = json.loads(shown.stdout)
    assert (found["phase"], found["workers"]) == ("Running", 1)
    assert found["progress"]["asked"] == 10
    stopped = paretune("k8s", "stop", sweep)
    assert "its study is kept" in stopped.stderr
    wait_for(lambda: kube.names("rayjobs") == [], kube)
    second = rows_of(study)
    assert before.items() <= second.items()

    # It goes on once more, to its end.
    done = paretune("k8s", "resume", sweep, "--wait")
    assert done.returncode == 0, done.stderr
    assert "Complete: done" in done.stderr
    last = rows_of(study)
    after = identities(last)
    assert {name: after.get(name) for name in second} == identities(second)
    rows = [json.loads(row) for row in last.values()]
    assert sum(row["origin"] == "trained" for row in rows) == 10
    assert {row["status"] for row in rows} == {"measured"}

    log = paretune("k8s", "logs", "digits").stdout
    assert f"10 trials, {len(second)} of them done before" in log
    front = json.loads(paretune("front", study, "--json").stdout)
    assert front
    shown = paretune("k8s", "status", "digits").stdout
    assert f"10/10 trials, front of {len(front)}" in shown
    paretune("k8s", "stop", "digits")


def identities(rows):
    """Give what must not change of rows.

    The model file of one that another dominates goes, and the latency of one on the front is
    measured again at the end.
    """
    kept = ("trial_id", "number", "finished_at", "metrics", "seconds")
    found = {name: {k: json.loads(row)[k] for k in kept} for name, row in rows.items()}
    for row in found.values():
        row["metrics"] = {k: v for k, v in row["metrics"].items() if "latency" not in k}
    return found


def driver_variables(operator, name):
    """Give the variables of the driver's process."""
    mark = f"paretune run {operator.mounts.folders['/etc/paretune']}"
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
            if mark in command:
                pairs = (entry / "environ").read_bytes().decode().split("\0")
                return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        except OSError:
            continue
    raise AssertionError("there is no driver")


@pytest.mark.soak
def test_the_second_night_starts_from_the_first_and_tells_what_got_worse(
    kube, operator, paretune, studies, tmp_path
):
    sweep = sweep_file(tmp_path, trials=3, epochs=4)
    assert paretune("k8s", "schedule", sweep, "--cron", "0 2 * * *").returncode == 0
    # What the CronJob's pod runs, with the sweep as it is mounted there.
    inside = tmp_path / "inside.yaml"
    text = kube.object("configmaps", "digits-sweep")["data"]["sweep.yaml"]
    inside.write_text(operator.mounts.sweep_on_host(text))

    def night(day):
        return paretune("nightly", inside, "--on-cluster", "--night", day)

    first = night("2026-11-23")
    assert first.returncode == 0, first.stderr
    assert "no earlier night to compare with" in first.stderr
    nights = studies / "digits-nights"
    before = [json.loads(row) for row in rows_of(nights / "digits-2026-11-23").values()]
    plant_a_better_model(nights / "digits-2026-11-23")
    paretune("k8s", "stop", "digits-2026-11-23")
    wait_for(lambda: kube.names("rayjobs") == [], kube)

    # The pod ends with 1, which an alert can use; the job itself has succeeded, so KubeRay does
    # not try again.
    second = night("2026-11-24")
    assert second.returncode == 1, second.stderr
    assert "the pick for phone, edge, server got worse since the night before" in second.stderr
    assert kube.object("rayjobs", "digits-2026-11-24")["status"]["jobStatus"] == "SUCCEEDED"
    assert "hypervolume" in second.stdout
    assert "not found again" in second.stdout

    rows = [json.loads(row) for row in rows_of(nights / "digits-2026-11-24").values()]
    trained = {row["trial_id"] for row in rows if row["origin"] == "trained"}
    copied = {row["trial_id"] for row in rows if row["origin"] == "copied"}
    earlier = {row["trial_id"] for row in before}
    assert len(trained) == 3
    assert not trained & earlier
    assert copied
    assert copied <= earlier
    paretune("k8s", "stop", "digits-2026-11-24")
    wait_for(lambda: kube.names("rayjobs") == [], kube)


def plant_a_better_model(study):
    """Add a row without a model file that is better than all others: it cannot be carried over."""
    row = json.loads(next((study / "rows").glob("*.json")).read_text())
    config = TrialConfig.model_validate({**row["config"], "learning_rate": 0.0777})
    row |= {"trial_id": config.trial_id, "config": config.model_dump(), "artifact": None}
    row["metrics"]["accuracy"] = 0.9999
    (study / "rows" / f"{config.trial_id}.json").write_text(json.dumps(row))
