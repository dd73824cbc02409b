"""A real sweep on three nodes of one machine, with GPUs that only Ray believes in."""

import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

SWEEP = """
name: nodes
storage: {storage}
data: {{name: digits}}
space:
  learning_rate: {{log_uniform: [0.02, 0.2]}}
  epochs: 40
  depth: 2
  width: 16
search: {{method: random, trials: 10, siblings: false}}
resources: {{gpus_per_trial: 0.5, max_concurrent: 6}}
"""
NODES = 3


@pytest.fixture
def nodes(monkeypatch, tmp_path):
    """A head without GPUs, and nodes with one each, on which the sweep finds itself."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PARETUNE_NOTES", str(tmp_path / "notes"))
    (tmp_path / "notes").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        found = [cluster.add_node(num_cpus=2, num_gpus=1) for _ in range(NODES)]
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster, found
    finally:
        ray.shutdown()
        cluster.shutdown()


def noting_trial():
    """Make the trial of the product, which notes where it runs, measures and prepares data.

    There is no GPU to train on: it trains on the CPU all the same.
    """
    import ray

    from trainables import data, measure
    from trainables.tune_trial import TuneTrial

    def note(kind, began):
        about = {
            "kind": kind,
            "node": ray.get_runtime_context().get_node_id(),
            "process": os.getpid(),
            "gpus": os.environ["CUDA_VISIBLE_DEVICES"],
            "began": began,
            "ended": time.monotonic(),  # one clock for all processes of a machine
        }
        name = f"{kind}-{os.getpid()}-{time.monotonic_ns()}.json"
        (Path(os.environ["PARETUNE_NOTES"]) / name).write_text(json.dumps(about))

    def noted(kind, function):
        def call(*arguments, **options):
            began = time.monotonic()
            try:
                return function(*arguments, **options)
            finally:
                note(kind, began)

        return call

    class Noting(TuneTrial):
        def setup(self, config, *, settings):
            measure.paired_ratio = noted("measure", measure.paired_ratio)
            data._prepare = noted("prepare", data._prepare)
            super().setup(config, settings=replace(settings, gpu=False))

        def step(self):
            return noted("step", super().step)()

    return Noting


def read_notes(folder: Path, kind: str) -> list[dict]:
    notes = [json.loads(path.read_text()) for path in folder.glob(f"{kind}-*.json")]
    return sorted(notes, key=lambda note: note["began"])


@pytest.mark.soak
def test_a_sweep_on_three_nodes_shares_gpus_and_storage_and_survives_one(
    nodes, tmp_path, monkeypatch
):
    import trainables.tune_trial
    from search.observer import SweepObserver
    from search.spec.spec_file import load_sweep
    from search.sweep import run_sweep

    cluster, found = nodes
    monkeypatch.setattr(trainables.tune_trial, "TuneTrial", noting_trial())
    file, notes, study = tmp_path / "sweep.yaml", tmp_path / "notes", tmp_path / "nodes"
    file.write_text(SWEEP.format(storage=tmp_path))

    class Killer(SweepObserver):
        """Takes a node away once trials on all nodes have left checkpoints."""

        lost_node = ""
        left: set[str] = set()
        interrupted: set[str] = set()

        def epoch_ended(self, trial_id, progress):
            seen = {note["node"] for note in read_notes(notes, "step")}
            left = {path.stem for path in (study / "running").glob("*.ckpt")}
            if not self.lost_node and len(seen) == NODES and len(left) > NODES:
                self.lost_node, self.left = found[0].node_id, left
                cluster.remove_node(found[0], allow_graceful=False)

        def trial_interrupted(self, trial_id, reason):
            self.interrupted.add(trial_id)

    killer = Killer()
    outcome = run_sweep(load_sweep(file), observers=[killer])
    rows = {row.trial_id: row for row in outcome.rows}

    # Nothing was lost with the node: its trials went on elsewhere from their checkpoints.
    assert killer.lost_node
    assert len(rows) == 10
    assert all(row.status == "measured" for row in rows.values())
    assert killer.interrupted
    assert all(rows[name].resumed_from for name in killer.interrupted & killer.left)
    assert all((study / "artifacts" / row.artifact).exists() for row in outcome.front.rows)

    # Two trials share one GPU, on every node, and never three.
    steps = read_notes(notes, "step")
    shared = Counter()
    for note in steps:
        beside = {n["process"] for n in steps if n["node"] == note["node"] and
                  n["began"] <= note["began"] < n["ended"]}  # fmt: skip
        shared[note["node"]] = max(shared[note["node"]], len(beside))
    assert len(shared) == NODES
    assert max(shared.values()) == 2
    # The node that died may not have come to a second trial.
    assert {most for node, most in shared.items() if node != killer.lost_node} == {2}
    assert {note["gpus"] for note in steps} == {"0"}

    # All nodes are one machine here: one measures at a time, whichever node it is on.
    measured = read_notes(notes, "measure")
    assert len({note["node"] for note in measured}) == NODES
    ends = [note["ended"] for note in measured]
    assert all(end <= later["began"] for end, later in zip(ends, measured[1:], strict=False))

    # The data were prepared once, for all processes that share a cache.
    assert len(read_notes(notes, "prepare")) == 1
