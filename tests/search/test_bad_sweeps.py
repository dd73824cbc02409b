"""Mistakes in a sweep file, and what a person reads."""

import subprocess
import sys
from pathlib import Path

import pytest

from search.errors import SpecError
from search.spec import preflight as preflight_module
from search.spec.preflight import preflight
from search.spec.spec_file import MAX_FILE_BYTES, load_sweep

GOOD = {
    "name": "name: s",
    "data": "data: {name: digits}",
    "space": "space: {epochs: 3}",
}


def sweep(**lines: str) -> str:
    """Give a sweep file of one line per section, some of them replaced or added."""
    return "\n".join({**GOOD, **lines}.values()) + "\n"


def section(name: str, text: str) -> str:
    return sweep(**{name: f"{name}: {text}"})


def space(text: str, **more: str) -> str:
    return sweep(space=f"space: {{{text}}}", **more)


BILLION_LAUGHS = "a0: &a0 [x, x]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)
)

BAD = {
    # --- the file ----------------------------------------------------------------------------
    "empty": ("", ":1: is empty", "name, seed"),
    "comment only": ("# nothing\n", ":1: is empty"),
    "a list": ("- 1\n", ":1: is not a mapping"),
    "text": ("hello", ":1: is not a mapping"),
    "syntax": ("name: s\ndata: {name: digits\nspace:", ":3: is not YAML"),
    "tab": ("name: s\ndata:\n\tname: digits\n", ":3: is not YAML", "spaces, not with tabs"),
    "two documents": (sweep() + "---\n" + sweep(), ":4: is not YAML", "single document"),
    "key twice": (sweep() + "name: t\n", ":4: the key 'name' is given twice, first in line 1"),
    "inner key twice": (space("epochs: 1, epochs: 2"), ":3: the key 'epochs' is given twice"),
    "alias in itself": ("name: &n [*n]\n", ":1: an alias contains itself"),
    "unknown alias": ("name: *n\n", ":1: is not YAML", "undefined alias"),
    "billion laughs": (BILLION_LAUGHS, "more than 100000 values"),
    "nested too deeply": ("[" * 5000, "nested too deeply"),
    "merge key": ("a: &a {b: 1}\nc: {<<: *a}\n", ":2: merge keys"),
    "key is a list": ("[a]: 1\n", ":1: a key is a list or a mapping"),
    "code": ("name: !!python/object:os.system {}\n", ":1: the tag", "plain values"),
    "control character": ("name: a\x01b\n", "not allowed"),
    "huge number": (section("seed", "9" * 5000), ":4: '9999", "is not a number"),
    # --- keys and types ----------------------------------------------------------------------
    "unknown key": (section("sead", "1"), ":4: sead: unknown key; did you mean 'seed'?"),
    "unknown inner key": (
        section("data", "{name: digits, chanels: 1}"),
        ":2: data.chanels: unknown key; did you mean 'channels'?",
        "validation_share",
    ),
    "missing": ("name: s\nspace: {epochs: 3}\n", ":1: data: is missing"),
    "null section": (section("search", ""), ":4: search: got nothing (null); allowed: a mapping"),
    "text for number": (
        section("seed", "'1'"),
        ":4: seed: got '1'; allowed: a whole number, at least 0",
    ),
    "fraction for whole": (section("seed", "1.5"), "seed: got 1.5; allowed: a whole number"),
    "boolean for number": (section("seed", "yes"), "seed: got true; allowed: a whole number"),
    "infinite": (space("learning_rate: .inf"), "space.learning_rate: got inf; allowed: a number"),
    "not a number": (space("learning_rate: .nan"), "space.learning_rate: got nan"),
    # --- name, storage, data, model ----------------------------------------------------------
    "name is a path": (section("name", "../x"), ":1: name: got '../x'; allowed: lower-case"),
    "name is a dot": (section("name", "'..'"), "name: got '..'"),
    "name in capitals": (section("name", "Digits"), "name: got 'Digits'"),
    "name too long": (section("name", "a" * 64), "at most 63"),
    "name is a number": (section("name", "12"), "name: got 12; allowed: text; put it in quotes"),
    "name ends in a line break": (section("name", '"a\\n"'), "name: got"),
    "no storage": (section("storage", "''"), "storage: got ''; allowed: a folder"),
    "storage without place": (section("storage", "'s3://'"), "storage: got 's3://'"),
    "unknown data": (
        section("data", "{name: imagenet}"),
        "data.name: got 'imagenet'; allowed: digits, mnist, fashion_mnist",
        "cifar10 or image_folder",
    ),
    "folder without path": (section("data", "{name: image_folder}"), "data: image_folder needs"),
    "data size as text": (
        section("data", "{name: digits, image_size: '8'}"),
        "data.image_size: got '8'; allowed: a whole number, at least 4 and at most 1024, or null",
    ),
    "two models": (section("model", "{name: cnn, factory: 'a:b'}"), "model: `name` and `factory`"),
    "factory as name": (section("model", "{name: 'a:b'}"), "model.name: got 'a:b'", "`factory`"),
    "factory without function": (
        section("model", "{factory: a.b}"),
        "model.factory: got 'a.b'; allowed: package.module:function",
    ),
    "unknown argument": (
        section("model", "{name: cnn, args: {wdth: 8}}"),
        "model.args.wdth: unknown argument of cnn; did you mean 'width'?",
    ),
    "argument out of bounds": (
        section("model", "{args: {depth: 0}}"),
        "model.args.depth: got 0; allowed: a whole number, at least 1 and at most 8",
    ),
    "argument is a list": (
        section("model", "{factory: 'a:b', args: {x: [1]}}"),
        "model.args.x: got [1]; allowed: a number, text, true or false",
    ),
    # --- space -------------------------------------------------------------------------------
    "space is a list": (section("space", "[1]"), ":3: space: got [1]; allowed: a mapping"),
    "unknown dimension": (
        space("learning_rat: 0.1"),
        ":3: space.learning_rat: unknown dimension; did you mean 'learning_rate'?",
    ),
    "seed as dimension": (space("seed: [1, 2]"), "space.seed: unknown dimension"),
    "factory argument without name": (space("model.: 1"), "space.model.: unknown dimension"),
    "null": (space("epochs: null"), "space.epochs: got nothing (null); allowed: a whole number"),
    "empty choice": (space("batch_size: []"), "space.batch_size: got []; allowed: a list with"),
    "empty named choice": (space("batch_size: {choice: []}"), "space.batch_size.choice: got []"),
    "value twice": (
        space("batch_size: [32, 64, 32]"),
        "space.batch_size[2]: 32 is given twice",
    ),
    "same number twice": (
        space("learning_rate: [1, 1.0]"),
        "space.learning_rate[1]: 1.0 is given",
    ),
    "wrong value in a list": (
        space("batch_size: [32, big]"),
        "space.batch_size[1]: got 'big'; allowed: a whole number, at least 1 and at most 65536",
    ),
    "list in a list": (space("batch_size: [[32]]"), "space.batch_size[0]: got [32]"),
    "unknown word": (
        space("amp: [none, fp8]"),
        "space.amp[1]: got 'fp8'; allowed: none, bf16 or fp16",
    ),
    "log from zero": (
        space("weight_decay: {log_uniform: [0, 0.1]}"),
        "space.weight_decay.log_uniform[0]: got 0; allowed: above 0",
    ),
    "log from negative": (
        space("model.x: {log_int: [-1, 5]}", model="model: {factory: 'a:b'}"),
        "space.model.x.log_int[0]: got -1; allowed: above 0",
    ),
    "ends swapped": (
        space("learning_rate: {uniform: [0.2, 0.1]}"),
        "space.learning_rate.uniform: got [0.2, 0.1]; allowed: low below high",
    ),
    "ends equal": (space("epochs: {int: [3, 3]}"), "space.epochs.int: got [3, 3]"),
    "one end": (space("epochs: {int: [3]}"), "space.epochs.int: got [3]; allowed: [low, high]"),
    "no ends": (space("epochs: {int: 3}"), "space.epochs.int: got 3; allowed: [low, high]"),
    "end is text": (
        space("model.x: {uniform: [a, 5]}", model="model: {factory: 'a:b'}"),
        "space.model.x.uniform[0]: got 'a'; allowed: a number",
    ),
    "end is a fraction": (
        space("model.x: {int: [1, 2.5]}", model="model: {factory: 'a:b'}"),
        "space.model.x.int[1]: got 2.5; allowed: a whole number",
    ),
    "everything removed": (
        space("pruning_method: filter, pruning_ratio: {uniform: [0, 1]}"),
        "space.pruning_ratio.uniform[1]: got 1; allowed: a number, at least 0 and below 1",
    ),
    "fractions of epochs": (
        space("epochs: {uniform: [1, 3]}"),
        "space.epochs.uniform: does not fit",
        "{int: [low, high]}",
    ),
    "whole learning rates": (
        space("learning_rate: {int: [1, 3]}"),
        "space.learning_rate.int: does not fit",
        "{log_uniform: [low, high]}",
    ),
    "range of words": (
        space("weight_bits: {int: [4, 8]}"),
        "space.weight_bits.int: does not fit; allowed: a value or a list of values; values: 32",
    ),
    "unknown form": (
        space("epochs: {range: [1, 3]}"),
        "space.epochs: got {range: [1, 3]}; allowed: a value, a list of values",
        "{int: [low, high]}",
    ),
    "two forms": (space("epochs: {int: [1, 3], choice: [1]}"), "space.epochs: got {int"),
    "step of a choice": (space("epochs: {choice: [1], step: 2}"), "space.epochs.step: goes with"),
    "step of nothing": (space("epochs: {int: [1, 3], step: 0}"), "space.epochs.step: got 0"),
    "end out of step": (
        space("epochs: {int: [2, 9], step: 3}"),
        "space.epochs.int: steps of 3 from 2 never reach 9; allowed: 8 or 11",
    ),
    "cnn's argument elsewhere": (
        space("width: [8, 16]", model="model: {name: resnet18}"),
        "space.width: is an argument of cnn, and the model is resnet18",
    ),
    "cnn's argument on a factory": (
        space("width: 8", model="model: {factory: 'a:b'}"),
        "a factory takes model.width",
    ),
    "factory's argument elsewhere": (
        space("model.hidden: 8"),
        "space.model.hidden: is an argument of a factory, and the model is cnn",
    ),
    "argument twice": (
        space("width: [8, 16]", model="model: {args: {width: 8}}"),
        "space.width: is given in `model.args` too",
    ),
    "model twice": (
        space("model: [cnn, resnet18]", model="model: {name: resnet18}"),
        "space.model: there is a section `model:` too",
    ),
    "model is no name": (space("model: ['a b']"), "space.model[0]: got 'a b'"),
    "no bits left": (
        space("weight_bits: [32, 16], activation_bits: 8"),
        "space.weight_bits: got W16A8, W32A8, which the runtime does not really execute",
        "W4A8",
    ),
    "ratio without method": (
        space("pruning_ratio: [0.1, 0.5]"),
        "space.pruning_ratio: has no effect while pruning_method is none; allowed: filter",
    ),
    "method without ratio": (
        space("pruning_method: filter"),
        "space.pruning_method: prunes nothing at a pruning_ratio of 0",
    ),
    "momentum of adamw": (
        space("optimizer: adamw, momentum: [0.5, 0.9]"),
        "space.momentum: has no effect: only sgd",
    ),
    # --- search, stop, objectives, constraints, deploy, resources ----------------------------
    "unknown searcher": (
        section("search", "{method: rando}"),
        ":4: search.method: got 'rando'; did you mean 'random'? allowed: random, grid, tpe, gp",
    ),
    "no trials": (section("search", "{trials: 0}"), "search.trials: got 0; allowed: a whole"),
    "unknown scheduler": (
        section("stop", "{method: hyperband}"),
        "stop.method: got 'hyperband'; allowed: none, asha or pareto_asha",
    ),
    "unknown stop metric": (
        section("stop", "{method: asha, metric: acuracy}"),
        "stop.metric: got 'acuracy'; did you mean 'accuracy'?",
    ),
    "no reduction": (section("stop", "{reduction_factor: 1}"), "stop.reduction_factor: got 1"),
    "unmeasured objective": (
        section("objectives", "{accuracy: max, flops: min}"),
        ":4: objectives.flops: no trial measures this; allowed: accuracy, size_bytes",
    ),
    "no objective": (section("objectives", "{}"), "objectives: is empty"),
    "unknown direction": (
        section("objectives", "{accuracy: maximise}"),
        "objectives.accuracy.direction: got 'maximise'; allowed: min or max",
    ),
    "objective is a number": (
        section("objectives", "{accuracy: 1}"),
        "objectives.accuracy: got 1; allowed: min, max or {direction: ...}",
    ),
    "reference at the ideal": (
        section("objectives", "{accuracy: {direction: max, reference: 1}}"),
        "objectives.accuracy.reference: got 1.0; allowed: below 1",
    ),
    "reference with a foreign unit": (
        section("objectives", "{latency_ms: {direction: min, reference: 2MB}}"),
        "objectives.latency_ms.reference: got '2MB'; allowed: a number of ms",
    ),
    "unmeasured constraint": (
        section("constraints", "{size: {max: 1}}"),
        "constraints.size: no trial measures this; did you mean 'size_bytes'?",
    ),
    "constraint is a number": (
        section("constraints", "{size_bytes: 500kB}"),
        "constraints.size_bytes: got '500kB'; allowed: {min: value}, {max: value} or both",
    ),
    "constraint without bound": (
        section("constraints", "{size_bytes: {}}"),
        "constraints.size_bytes: bounds nothing",
    ),
    "unknown unit": (
        section("constraints", "{size_bytes: {max: 500kb}}"),
        "constraints.size_bytes.max: got '500kb'",
        "kB",
    ),
    "bounds swapped": (
        section("constraints", "{parameters: {min: 2M, max: 1M}}"),
        "constraints.parameters: min 2e+06 is above max 1e+06",
    ),
    "accuracy in per cent": (
        section("constraints", "{accuracy: {min: 90}}"),
        "constraints.accuracy.min: got 90; allowed: from 0 to 1, or from 0% to 100%",
    ),
    "negative size": (section("constraints", "{size_bytes: {max: -1}}"), "allowed: 0 or more"),
    "unknown device": (
        section("deploy", "{device: tpu}"),
        "deploy.device: got 'tpu'; allowed: cpu",
    ),
    "one and a half GPUs": (
        section("resources", "{gpus_per_trial: 1.5}"),
        "resources.gpus_per_trial: got 1.5; allowed: a fraction below 1",
    ),
    "a list of numbers": (section("import_paths", "[1]"), "import_paths[0]: got 1; allowed: text"),
}


@pytest.mark.parametrize(("text", "words"), [(t, w) for t, *w in BAD.values()], ids=BAD)
def test_a_mistake_is_named_in_plain_words(text, words, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as refused:
        load_sweep(file)
    message = str(refused.value)
    assert message.startswith(f"{file}:")
    for word in words:
        assert word in message
    for jargon in ("pydantic", "Input should", "value_error", "Value error", "line_errors"):
        assert jargon not in message
    assert len(message.splitlines()) == 1


def test_all_mistakes_come_at_once_in_the_order_of_the_file(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "name: A\nspace:\n  epochs: 0\n  amp: [fp8, fp9]\n  wdth: 3\ndata: {name: x, y: 1}\n"
        "constraints: {size: 1, accuracy: {min: 2, max: x}}\nextra: 1\n"
    )
    with pytest.raises(SpecError) as refused:
        load_sweep(file)
    places = [line.split(": ")[0:2] for line in str(refused.value).splitlines()]
    assert places == [
        [f"{file}:1", "name"],
        [f"{file}:3", "space.epochs"],
        [f"{file}:4", "space.amp[0]"],
        [f"{file}:4", "space.amp[1]"],
        [f"{file}:5", "space.wdth"],
        [f"{file}:6", "data.name"],
        [f"{file}:6", "data.y"],
        [f"{file}:7", "constraints.accuracy.max"],
        [f"{file}:7", "constraints.accuracy.min"],
        [f"{file}:7", "constraints.size"],
        [f"{file}:8", "extra"],
    ]


# --- files that cannot be read ---------------------------------------------------------------


def refused(path) -> str:
    with pytest.raises(SpecError) as error:
        load_sweep(path)
    return str(error.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    assert refused(tmp_path / "no.yaml") == f"{tmp_path / 'no.yaml'}: there is no such file"
    assert "is a folder" in refused(tmp_path)
    assert "cannot be read" in refused("nowhere://x/sweep.yaml")


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_bytes(b"name: s\ndata: {name: \xff}\n")
    assert refused(file) == f"{file}:2: is not text in UTF-8"


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + sweep().encode())
    assert load_sweep(file).name == "s"


def test_a_huge_file_is_not_read(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("#" * (MAX_FILE_BYTES + 1))
    assert "larger than" in refused(file)


# --- preflight -------------------------------------------------------------------------------

NETS = "def small(in_channels, classes, hidden): ...\ndef wide(hidden=1): ...\n"

BEFORE_THE_START = {
    "missing folder": (
        section("data", "{name: image_folder, path: /not/here}"),
        "data.path: cannot read the folder /not/here: No such file",
    ),
    "folder without classes": (
        section("data", "{name: image_folder, path: HERE}"),
        "data.path: ",
        "has no subfolders",
    ),
    "unknown network": (
        section("model", "{name: resnet19}"),
        "model: there is no model 'resnet19'; did you mean 'resnet",
    ),
    "unknown network in the space": (
        space("model: [cnn, resnet_18]"),
        "space.model: there is no model 'resnet_18'; did you mean 'resnet18'?",
    ),
    "detector": (section("model", "{name: fasterrcnn_resnet50_fpn}"), "there is no model"),
    "no module": (section("model", "{factory: 'nowhere.nets:small'}"), "no module nowhere.nets"),
    "no function": (section("model", "{factory: 'nets:smal'}"), "has no smal; it has small, wide"),
    "not Python": (section("model", "{factory: 'broken:f'}"), "is not Python"),
    "argument not taken": (
        space("model.hidden: 1, model.depth: 3", model="model: {factory: 'nets:small'}"),
        "model: nets:small: does not take depth; it takes in_channels, classes, hidden",
    ),
    "argument missing": (
        section("model", "{factory: 'nets:small'}"),
        "needs hidden; give it as model.hidden",
    ),
    "argument of the data": (
        space("model.classes: 3, model.hidden: 1", model="model: {factory: 'nets:small'}"),
        "classes follows from the data",
    ),
    "grid without end": (
        space("learning_rate: {uniform: [0.1, 0.2]}", search="search: {method: grid}"),
        "space.learning_rate: got {uniform: [0.1, 0.2]}, a continuous dimension",
        "a list of values",
    ),
    "too many cores": (section("resources", "{cpus_per_trial: 5000}"), "this machine has"),
    "too many GPUs": (section("resources", "{gpus_per_trial: 3}"), "got 3; this machine has 2"),
    "cuda without a GPU": (section("deploy", "{device: cuda}"), "deploy.device: cuda needs a GPU"),
    "known only at the end": (
        section("stop", "{method: asha, metric: compressed_bytes}"),
        "stop.metric: compressed_bytes is known only at the end",
        "accuracy",
    ),
}


@pytest.mark.parametrize(
    ("text", "words"), [(t, w) for t, *w in BEFORE_THE_START.values()], ids=BEFORE_THE_START
)
def test_what_cannot_run_is_refused_before_the_start(text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight_module, "_gpu_count", lambda: 2)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("def (")
    file = tmp_path / "sweep.yaml"
    file.write_text(text.replace("HERE", str(tmp_path)))
    with pytest.raises(SpecError) as refused:
        preflight(load_sweep(file))
    for word in words:
        assert word in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 3), ("", 0), ("-1", 0), ("0", 1), ("0,2", 2), ("0,-1,2", 1)]
)
def test_gpus_are_counted_by_device_files(visible, count, tmp_path, monkeypatch):
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    path = preflight_module.Path
    monkeypatch.setattr(
        preflight_module, "Path", lambda name: path(tmp_path if name == "/dev" else name)
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert preflight_module._gpu_count() == count


ALL_IN_ONE_PROCESS = """
import sys
from pathlib import Path
from search.errors import SpecError
from search.spec.preflight import preflight
from search.spec.spec_file import load_sweep
refused = 0
for file in Path(sys.argv[1]).glob("*.yaml"):
    try:
        preflight(load_sweep(file))
    except SpecError:
        refused += 1
heavy = {"torch", "torchvision", "ray", "onnx", "onnxruntime", "sklearn", "pandas"}
print(refused, *heavy & sys.modules.keys())
"""


def test_mistakes_are_found_without_torch_and_ray(tmp_path):
    texts = [text for text, *_ in [*BAD.values(), *BEFORE_THE_START.values()]]
    for i, text in enumerate(texts):
        Path(tmp_path / f"{i}.yaml").write_text(text)
    ran = subprocess.run(
        [sys.executable, "-c", ALL_IN_ONE_PROCESS, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == [str(len(texts))]
