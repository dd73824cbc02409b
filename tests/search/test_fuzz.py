"""Broken files of every kind: a clear answer, never a traceback, never a hang.

PARETUNE_FUZZ=2000 tries as many of each; by default it is a sample.
"""

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_rows import made_row

from search.errors import SpecError
from search.spec.spec_file import load_sweep
from search.study.study import Study
from trainables.checkpoint import read_head

SWEEPS = Path(__file__).parents[2] / "scripts" / "sweeps"
TEXT = (SWEEPS / "quickstart.yaml").read_text()
TREE = yaml.safe_load(TEXT)
ROW = made_row(1, 0.9, 1000.0, 0.5, curve=[{"epoch": 1.0, "loss": 0.5}]).model_dump_json(indent=1)

fuzz = settings(
    max_examples=int(os.environ.get("PARETUNE_FUZZ", "120")),
    deadline=5000,  # ms: what takes longer hangs
    suppress_health_check=list(HealthCheck),
)

scraps = st.sampled_from(
    ["", "[", "]", "{", "}", ":", "- ", "\n", "\t", "*a", "&a ", "!!python/object:os.system ",
     "'", '"', "\0", "\ufeff", "#", "1e999", ".nan", "-1", "null", "~", "? ", "--- ", "%YAML 9",
     "é", "<<: ", "!!binary ",
     "[" * 200, "{a: " * 200, "9" * 400, "0x", "2020-01-01", "|", ">", "&x [*x]"]
)  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["min", "max", "500kB", "90%", "1e9", "-1 ms", "none", "../..", "s3://", "inf"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["uniform", "log_uniform", "int", "log_int", "min", "max", "name", "trials"]
            )
            | st.text(max_size=8)
            | st.integers()
            | st.none(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)


@st.composite
def broken_text(draw, text: str) -> str:
    """Cut, double, move or replace parts of a text."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        middle = draw(scraps | st.text(max_size=6) | st.just(text[start:end] * 2))
        text = text[:start] + middle + text[end:]
    return text


@st.composite
def broken_tree(draw, tree):
    """Replace, remove or add something somewhere in nested mappings and lists."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    copy = tree.copy()
    if not keys or draw(st.booleans()):
        new = draw(st.text(max_size=8) | st.sampled_from(["epochs", "amp", "model", "name", 3]))
        copy[new] = draw(values) if isinstance(copy, dict) else None
        return copy
    key = draw(st.sampled_from(keys))
    below = tree[key]
    if isinstance(below, dict) and draw(st.integers(0, 3)):
        copy[key] = draw(broken_tree(below))
    elif draw(st.booleans()):
        copy[key] = draw(values)
    else:
        del copy[key]
    return copy


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "sweep.yaml"


def answers(file: Path, content: bytes) -> None:
    """Load a sweep file; it is taken, or refused with lines that name it."""
    file.write_bytes(content)
    message = None
    try:
        spec = load_sweep(file)
    except SpecError as error:
        message = str(error)
    if message is None:
        again = file.with_name("again.yaml")
        again.write_text(spec.to_yaml())
        assert load_sweep(again).to_yaml() == spec.to_yaml()
    else:
        assert message.startswith(str(file))
        assert "Traceback" not in message


@fuzz
@given(text=broken_text(TEXT))
def test_a_sweep_file_with_broken_text(file, text):
    answers(file, text.encode("utf-8", "surrogatepass"))


@fuzz
@given(tree=broken_tree(TREE))
def test_a_sweep_file_with_other_keys_and_values(file, tree):
    answers(file, yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@fuzz
@given(content=st.binary(max_size=300))
@example(b"a: &a [x]\n" + b"b: " + b"[*a, " * 50)
@example("\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" if i else "l0: &l0 [x]"
                   for i in range(20)).encode())  # fmt: skip
def test_a_sweep_file_that_is_none(file, content):
    answers(file, content)


def reads(folder: Path, content: bytes) -> None:
    """Read a study with one good and one broken row; the good one is there."""
    study = Study(str(folder))
    study.write_row(made_row(2, 0.8))
    broken = folder / "rows" / f"{made_row(1).trial_id}.json"
    broken.write_bytes(content)
    numbers = [row.number for row in study.rows() if row.trial_id == made_row(2).trial_id]
    assert numbers == [2]
    assert broken.read_bytes() == content


@fuzz
@given(text=broken_text(ROW))
def test_a_row_with_broken_text(file, text):
    reads(file.parent / "text", text.encode("utf-8", "surrogatepass"))


@fuzz
@given(tree=broken_tree(json.loads(ROW)))
def test_a_row_with_other_keys_and_values(file, tree):
    reads(file.parent / "tree", json.dumps(tree).encode("utf-8", "surrogatepass"))


@fuzz
@given(content=st.binary(max_size=200))
@example(b"\xff" * 8)
@example((5).to_bytes(8, "big") + b"[" * 5)
@example((4000).to_bytes(8, "big") + b"[" * 4000)
def test_a_checkpoint_that_is_none(file, content):
    study = Study(str(file.parent / "running"))
    path = file.parent / "running" / "running" / "0123abcd.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert study.running() == []
    with pytest.raises(ValueError, match=r"0123abcd\.ckpt"):
        read_head(str(path))
