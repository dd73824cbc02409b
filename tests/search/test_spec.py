"""The sweep file: defaults, what it gives the rest of the program, and the way back to YAML."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from search.spec.preflight import preflight
from search.spec.spec import SweepSpec
from search.spec.spec_file import load_sweep
from search.spec.yaml_text import dump_yaml, load_yaml
from trainables.config import TrialConfig
from trainables.contract import METRICS

SMALLEST = {"name": "s", "data": {"name": "digits"}, "space": {"epochs": 3}}
WHOLE = """
name: digits-01
seed: 4
storage: s3://bucket/nights/
data: {name: digits, image_size: 16}
model: {name: cnn, args: {fc_width: 32}}
space:
  learning_rate: {log_uniform: [1e-3, 1e-1]}
  batch_size: [32, 64, 128]
  epochs: 12
  kernel_size: [3, 5]
  width: {log_int: [8, 64]}
  depth: {int: [2, 4]}
  amp: [none, bf16]
  pruning_method: [filter]
  pruning_ratio: {uniform: [0.0, 0.8]}
  weight_bits: [32, 16, 8, 4]
  activation_bits: [32, 8]
search: {method: random, trials: 40, siblings: false}
stop: {method: asha, grace_epochs: 2, reduction_factor: 4}
objectives: {accuracy: max, size_bytes: {direction: min, reference: 2MB}, latency_ms: min}
constraints: {latency_ms: {max: 5ms}, size_bytes: {max: 500kB}, accuracy: {min: 90%}}
deploy: {device: cpu, batch_size: 1, threads: 1}
resources: {cpus_per_trial: 1, gpus_per_trial: 0, max_concurrent: 2}
"""


def spec(**more) -> SweepSpec:
    return SweepSpec.model_validate({**SMALLEST, **more})


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / "sweep.yaml"
        file.write_text(text)
        return file

    return write


# --- defaults --------------------------------------------------------------------------------


def test_the_smallest_file_gets_defaults():
    smallest = spec()
    assert [o.metric.name for o in smallest.objective_list] == [
        "accuracy", "size_bytes", "latency_ms",
    ]  # fmt: skip
    assert [o.direction for o in smallest.objective_list] == ["max", "min", "min"]
    assert smallest.constraint_list == []
    assert (smallest.search.method, smallest.search.trials) == ("ehvi", 20)
    assert smallest.stop.method == "none"
    assert smallest.study_location == "./studies/s"
    assert smallest.base_config == TrialConfig()


def test_trials_at_once_follow_from_the_cores():
    cores = os.cpu_count()
    assert spec().max_concurrent == cores
    assert spec(resources={"cpus_per_trial": cores}).max_concurrent == 1
    assert spec(resources={"cpus_per_trial": 1000}).max_concurrent == 1
    assert spec(resources={"max_concurrent": 7}).max_concurrent == 7


@pytest.mark.parametrize(
    ("storage", "location"),
    [
        ("./studies", "./studies/s"),
        ("./studies/", "./studies/s"),
        ("/", "/s"),
        ("s3://bucket", "s3://bucket/s"),
        ("s3://bucket/a/", "s3://bucket/a/s"),
    ],
)
def test_the_study_lies_in_the_storage(storage, location):
    assert spec(storage=storage).study_location == location


def test_seed_and_fixed_arguments_are_in_every_config():
    base = spec(seed=5, model={"name": "cnn", "args": {"width": 8}}).base_config
    assert (base.seed, base.model, base.model_args) == (5, "cnn", {"width": 8})
    assert spec(model={"factory": "nets:small"}).base_config.model == "nets:small"
    assert spec(model={"name": "resnet18"}).base_config.model == "resnet18"


# --- objectives and constraints --------------------------------------------------------------


def test_a_reference_is_the_user_s_else_the_bound_else_the_default():
    found = spec(
        objectives={
            "accuracy": "max",
            "size_bytes": {"direction": "min", "reference": "2MB"},
            "latency_ms": "min",
            "parameters": "min",
        },
        constraints={
            "accuracy": {"min": "90%"},
            "size_bytes": {"max": "500kB"},
            "latency_ms": {"max": "5ms"},
        },
    )
    assert [o.reference for o in found.objective_list] == [
        0.9, 2e6, 5.0, METRICS["parameters"].reference,
    ]  # fmt: skip
    assert [(c.metric.name, c.low, c.high) for c in found.constraint_list] == [
        ("accuracy", 0.9, math.inf),
        ("size_bytes", -math.inf, 5e5),
        ("latency_ms", -math.inf, 5.0),
    ]


def test_a_bound_on_the_other_side_is_no_reference():
    [found] = spec(
        objectives={"accuracy": "max"}, constraints={"accuracy": {"max": 0.9}}
    ).objective_list
    assert found.reference == METRICS["accuracy"].reference


def test_a_bound_at_the_ideal_leaves_the_axis_its_default():
    [found] = spec(
        objectives={"accuracy": "max"}, constraints={"accuracy": {"min": 1.0}}
    ).objective_list
    assert found.reference == METRICS["accuracy"].reference
    assert math.isfinite(found.loss(0.5))


@given(
    name=st.sampled_from(sorted(METRICS)),
    direction=st.sampled_from(["min", "max"]),
    bound=st.floats(0, 1),
)
def test_every_objective_has_an_axis(name, direction, bound):
    side = "max" if direction == "min" else "min"
    [found] = spec(objectives={name: direction}, constraints={name: {side: bound}}).objective_list
    # Without bins, which near the ideal are as wide as the axis.
    exact = replace(found, metric=replace(found.metric, resolution=0.0))
    assert math.isclose(exact.loss(exact.reference), 1)


def test_asha_looks_in_the_metric_s_own_direction():
    assert spec(stop={"method": "asha"}).stop.direction == "max"
    assert spec(stop={"method": "asha", "metric": "latency_ms"}).stop.direction == "min"


# --- to YAML and back ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        dump_yaml(SMALLEST),
        "name: '1e-3'\ndata: {name: digits}\nspace: {model: [cnn, resnet18], width: 8}",
        "name: 2026-01-01\ndata: {name: mnist, path: 'no'}\n"
        "space: {model: 'a.b:c', model.x: [on, off]}",
        "name: s\ndata: {name: digits}\nspace: {epochs: {int: [2, 8], step: 3}}\n"
        "model: {factory: 'a:b', args: {norm: none, dropout: 5e-1}}",
    ],
)
def test_what_is_written_reads_back_equal(text, write):
    first = load_sweep(write(text))
    again = load_sweep(write(first.to_yaml()))
    assert again == first
    assert again.to_yaml() == first.to_yaml()


def test_yaml_traps_are_read_as_people_mean_them(write):
    found = load_sweep(
        write(
            "name: 2026-01-01\ndata: {name: digits}\n"
            "space: {learning_rate: [1e-3, 1E-2, 5.e-2], weight_decay: 0, amp: [none]}"
        )
    )
    assert found.name == "2026-01-01"
    assert found.space.dimensions["learning_rate"].values == (0.001, 0.01, 0.05)
    assert found.space.dimensions["weight_decay"].values == (0.0,)


def test_the_whole_file_is_understood(write):
    found = load_sweep(write(WHOLE))
    assert found.study_location == "s3://bucket/nights/digits-01"
    assert found.space.max_epochs == 12
    assert len(found.space.bits_pairs) == 6
    assert found.base_config.model_args == {"fc_width": 32}


def test_the_device_decides_which_bits_are_run():
    space = {"weight_bits": [32, 16, 8, 4], "activation_bits": [32, 16, 8]}
    on_cpu, on_cuda = (set(spec(space=space, deploy={"device": d}).space.bits_pairs)
                       for d in ("cpu", "cuda"))  # fmt: skip
    assert on_cpu == {(32, 32), (16, 32), (8, 32), (4, 32), (8, 8), (4, 8)}
    assert on_cuda == {(32, 32), (16, 32), (8, 32), (4, 32), (16, 16)}
    half = {"weight_bits": 16, "activation_bits": 16}
    assert spec(space=half, deploy={"device": "cuda"}).space.bits_pairs == [(16, 16)]
    with pytest.raises(ValidationError, match=r"W16A16.*allowed: .*W8A8.* on cpu") as refused:
        spec(space=half)
    assert refused.value.errors()[0]["loc"] == ("space", "weight_bits")


TEXT = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" \n"), max_size=9)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
        lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
        max_leaves=6,
    )
)
def test_any_plain_value_survives_yaml(value):
    assert load_yaml(dump_yaml(value)).value == value


def test_lines_are_those_of_the_keys():
    document = load_yaml("a: 1\nb:\n  c: [1,\n    2]\n")
    assert document.line(("b", "c")) == 3
    assert document.line(("b", "c", 1)) == 4
    assert document.line(("b", "nothing", "there")) == 2
    assert document.line(("nothing",)) == 1


# --- paths -----------------------------------------------------------------------------------


def test_trials_find_the_data_from_any_folder(write, tmp_path, monkeypatch):
    text = "name: s\nspace: {epochs: 1}\ndata: {name: image_folder, path: images}"
    monkeypatch.chdir(tmp_path)
    found = load_sweep(write(text))
    assert found.data.path == str(tmp_path / "images")
    monkeypatch.chdir("/")
    assert load_sweep(write(found.to_yaml())) == found


def test_a_factory_is_looked_for_beside_the_sweep_file(write, tmp_path):
    text = "name: s\ndata: {name: digits}\nspace: {epochs: 1}\n"
    assert load_sweep(write(text)).import_paths == []
    assert load_sweep(write(text + "model: {factory: 'a:b'}")).import_paths == [str(tmp_path)]
    named = write(text + "model: {factory: 'a:b'}\nimport_paths: [/lib, nets]")
    assert load_sweep(named).import_paths == ["/lib", str(tmp_path / "nets")]


# --- preflight -------------------------------------------------------------------------------

FACTORIES = """
import torch
from somewhere import imported

class Net:
    def __init__(self, classes, hidden=8): ...

def small(in_channels, classes, *, hidden, norm="batch"):
    return torch.nn.Identity()

def open_ended(**arguments): ...

@imported
def decorated(): ...

if torch:
    def inner(): ...
other = small
"""


@pytest.mark.parametrize(
    ("factory", "dimensions"),
    [
        ("package.nets:small", {"model.hidden": [1, 2]}),
        ("package.nets:small", {"model.hidden": 1, "model.norm": "group"}),
        ("package.nets:Net", {"model.hidden": [1, 2]}),
        ("package.nets:open_ended", {"model.whatever": 1}),
        ("package.nets:imported", {"model.whatever": 1}),
        ("package.nets:decorated", {"model.whatever": 1}),
        ("package.nets:inner", {}),
        ("package.nets:other", {}),
    ],
)
def test_a_factory_is_found_without_importing_it(factory, dimensions, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "nets.py").write_text(FACTORIES)
    found = spec(
        model={"factory": factory},
        space={"epochs": 1, **dimensions},
        import_paths=[str(tmp_path)],
    )
    assert preflight(found) == ["the space has " + notes_size(found)]


def notes_size(found) -> str:
    return f"{found.space.size()} configurations, so there will be no more trials"


def test_notes_say_what_is_worth_knowing(monkeypatch):
    found = spec(
        space={
            "learning_rate": {"uniform": [0.1, 0.2]},
            "epochs": 3,
            "amp": ["none", "fp16"],
            "weight_bits": [32, 16],
            "activation_bits": [32, 8],
        },
        stop={"method": "asha", "grace_epochs": 3},
    )
    bits, amp, grace = preflight(found)
    assert "W16A8, W32A8" in bits
    assert "fp16" in amp
    assert "grace_epochs 3" in grace
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert "max_concurrent" in preflight(found)[-1]
    assert preflight(spec(search={"trials": 1})) == [
        f"resources.max_concurrent is null, so {os.cpu_count()} trials run at once: as many as "
        "this machine, not the cluster, has room for"
    ]


def test_a_cluster_s_machines_are_not_this_one(monkeypatch):
    large = spec(
        resources={"cpus_per_trial": 10_000, "gpus_per_trial": 8},
        data={"name": "image_folder", "path": "/not/here"},
    )
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    preflight(large)


def test_torchvision_s_classifiers_are_known():
    for name in ("resnet18", "mobilenet_v3_small", "vit_b_16"):
        preflight(spec(model={"name": name}))


QUICK = """
import sys
from search.spec.preflight import preflight
from search.spec.spec_file import load_sweep
preflight(load_sweep(sys.argv[1]))
heavy = {"torch", "torchvision", "ray", "onnx", "onnxruntime", "sklearn", "pandas"}
print(*heavy & sys.modules.keys())
"""


def test_a_good_sweep_is_checked_without_heavy_imports(write):
    text = WHOLE.replace("{name: cnn, args: {fc_width: 32}}", "{name: resnet18}")
    for name in ("kernel_size", "width", "depth"):
        text = "\n".join(line for line in text.splitlines() if f"  {name}:" not in line)
    ran = subprocess.run(
        [sys.executable, "-c", QUICK, write(text)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == []


def test_the_cluster_section_is_carried_as_it_is(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "name: a\ndata: {name: digits}\nspace: {epochs: 1}\ncluster: {image: x, more: [1]}\n"
    )
    spec = load_sweep(file)
    assert spec.cluster == {"image": "x", "more": [1]}
    file.write_text(spec.to_yaml())
    assert load_sweep(file) == spec
