"""What may vary, as canonical configs."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from search.space.dimensions import Choice, Range
from search.space.space import COUNT_LIMIT, Space
from search.spec.space_parser import parse_space
from trainables.config import BITS_ON_CPU, TrialConfig

LARGE = {
    "model": ["cnn", "resnet18", "nets:small"],
    "learning_rate": {"log_uniform": [1e-4, 1.0]},
    "batch_size": [32, 128, 64],
    "epochs": {"int": [3, 12], "step": 3},
    "optimizer": ["sgd", "adamw"],
    "momentum": {"uniform": [0.5, 0.8]},
    "width": {"log_int": [4, 64]},
    "depth": {"int": [1, 4]},
    "model.hidden": {"log_int": [1, 100]},
    "model.scale": {"uniform": [-1.0, 1.0]},
    "model.norm": ["batch", "group", "none"],
    "pruning_method": ["none", "filter"],
    "pruning_ratio": {"uniform": [0.1, 0.9]},
    "prune_at": {"uniform": [0.1, 0.4]},
    "weight_bits": [32, 16, 8, 4],
    "activation_bits": [32, 16, 8],
}


def space_of(raw, **base) -> Space:
    return replace(parse_space(raw, TrialConfig(**base)), device="cpu")


def parts_of_large():
    """Spaces with some of the dimensions of LARGE, `model` always among them."""
    others = sorted(LARGE.keys() - {"model"})
    pruned = {"pruning_method": LARGE["pruning_method"], "pruning_ratio": LARGE["pruning_ratio"]}
    return st.sets(st.sampled_from(others)).map(
        lambda names: space_of(
            {"model": LARGE["model"], **pruned, **{n: LARGE[n] for n in sorted(names)}}
        )
    )


# --- drawing ---------------------------------------------------------------------------------


@given(space=parts_of_large(), seed=st.integers(0, 2**32))
def test_what_is_drawn_is_canonical_and_inside(space, seed):
    config = space.sample(np.random.default_rng(seed))
    assert config == config.canonical()
    assert space.contains(config)
    assert (config.weight_bits, config.activation_bits) in BITS_ON_CPU


@given(space=parts_of_large(), seed=st.integers(0, 2**32))
def test_a_config_comes_back_from_the_unit_cube(space, seed):
    config = space.sample(np.random.default_rng(seed))
    unit = space.to_unit(config)
    assert unit.shape == (space.coordinates,)
    assert np.all((unit >= 0) & (unit <= 1))
    assert space.from_unit(unit) == config


@given(space=parts_of_large(), data=st.data())
def test_every_place_of_the_cube_is_inside(space, data):
    places = st.lists(st.floats(-0.5, 1.5), min_size=space.coordinates, max_size=space.coordinates)
    assert space.contains(space.from_unit(np.array(data.draw(places))))


def test_every_value_and_both_ends_are_drawn():
    space = space_of(
        {
            "batch_size": [8, 16, 32],
            "epochs": {"int": [2, 8], "step": 3},
            "width": {"log_int": [2, 6]},
            "amp": ["none", "bf16", "fp16"],
        }
    )
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(300)]
    assert {c.batch_size for c in drawn} == {8, 16, 32}
    assert {c.epochs for c in drawn} == {2, 5, 8}
    assert {c.model_args["width"] for c in drawn} == {2, 3, 4, 5, 6}
    assert {c.amp for c in drawn} == {"none", "bf16", "fp16"}


def test_draws_are_uniform_on_the_axis():
    rng = np.random.default_rng(0)
    space = space_of({"learning_rate": {"log_uniform": [1e-4, 1.0]}, "epochs": {"int": [1, 4]}})
    drawn = [space.sample(rng) for _ in range(2000)]
    decades = Counter(int(np.floor(np.log10(c.learning_rate))) for c in drawn)
    epochs = Counter(c.epochs for c in drawn)
    # Expected 500 each; the standard deviation is 19.
    assert all(400 < count < 600 for count in [*decades.values(), *epochs.values()])


# --- conditions ------------------------------------------------------------------------------


def test_arguments_go_to_the_model_that_takes_them():
    space = space_of(LARGE)
    rng = np.random.default_rng(0)
    taken = {}
    for _ in range(60):
        config = space.sample(rng)
        taken.setdefault(config.model, set()).add(frozenset(config.model_args))
    assert taken["cnn"] == {frozenset({"depth", "width", "kernel_size", "fc_width"})}
    assert taken["resnet18"] == {frozenset()}
    assert taken["nets:small"] == {frozenset({"hidden", "scale", "norm"})}


def test_fixed_arguments_stay():
    space = space_of(
        {"model.hidden": [1, 2]}, model="nets:small", model_args={"norm": "batch"}, seed=7
    )
    configs = list(space.grid())
    assert [c.model_args for c in configs] == [
        {"hidden": 1, "norm": "batch"},
        {"hidden": 2, "norm": "batch"},
    ]
    assert {c.seed for c in configs} == {7}


def test_a_canonical_value_off_its_dimension_is_still_inside():
    space = space_of(
        {
            "optimizer": ["sgd", "adamw"],
            "momentum": [0.7, 0.8],
            "pruning_method": "filter",
            "pruning_ratio": [0.0, 0.3, 0.5],
            "prune_at": 0.25,
        }
    )
    adamw = [c for c in space.grid() if c.optimizer == "adamw"]
    assert {c.momentum for c in adamw} == {0.9}
    assert all(space.contains(c) for c in space.grid())
    assert not space.contains(adamw[0].model_copy(update={"optimizer": "sgd"}))
    assert not space.contains(TrialConfig(seed=1))
    assert not space.contains(TrialConfig(optimizer="adamw", learning_rate=0.5))


# --- bits ------------------------------------------------------------------------------------


def test_bits_that_are_not_executed_are_left_out():
    space = space_of({"weight_bits": [32, 16, 8, 4], "activation_bits": [32, 16, 8]})
    assert set(space.bits_pairs) == set(BITS_ON_CPU)
    assert (16, 8) in space.excluded_bits
    assert (32, 16) in space.excluded_bits
    assert {(c.weight_bits, c.activation_bits) for c in space.grid()} == set(BITS_ON_CPU)
    assert space.size() == len(BITS_ON_CPU)


def test_fixed_bits_filter_the_others():
    space = space_of({"weight_bits": [32, 8], "activation_bits": 8})
    assert space.bits_pairs == [(8, 8)]
    assert space.sample(np.random.default_rng(0)).weight_bits == 8


@pytest.mark.parametrize("name", ["weight_bits", "activation_bits"])
def test_no_bits_left_is_an_error(name):
    raw = {
        "weight_bits": {"weight_bits": 16, "activation_bits": 8},
        "activation_bits": {"activation_bits": 16},
    }
    with pytest.raises(ValidationError, match="W4A8") as refused:
        space_of(raw[name])
    assert refused.value.errors()[0]["loc"] == (name,)


# --- counting --------------------------------------------------------------------------------


def test_a_grid_has_every_meaning_once():
    space = space_of(
        {"pruning_method": ["none", "filter"], "pruning_ratio": [0.0, 0.01, 0.5], "epochs": [1, 2]}
    )
    configs = list(space.grid())
    assert len(configs) == len({c.trial_id for c in configs}) == 4
    assert space.size() == 4
    assert space.is_finite


def test_a_continuous_space_has_no_size():
    space = space_of({"learning_rate": {"uniform": [0.1, 0.2]}, "epochs": [1, 2]})
    assert space.size() is None
    assert space.continuous == ["learning_rate"]
    assert not space.is_finite


def test_a_large_space_is_counted_by_its_points():
    space = space_of({"epochs": {"int": [1, COUNT_LIMIT]}, "optimizer": ["adamw", "sgd"]})
    assert space.size() == 2 * COUNT_LIMIT


@pytest.mark.parametrize(
    ("epochs", "most"), [(7, 7), ([3, 9], 9), ({"int": [2, 5]}, 5), ({"log_int": [2, 8]}, 8)]
)
def test_the_longest_trial_is_known(epochs, most):
    assert space_of({"epochs": epochs}).max_epochs == most


def test_without_epochs_their_default_is_the_longest():
    assert space_of({"batch_size": 32}).max_epochs == TrialConfig().epochs


# --- forms -----------------------------------------------------------------------------------


def test_forms_become_dimensions_and_come_back():
    raw = {
        "learning_rate": {"log_uniform": [0.01, 1.0]},
        "epochs": {"int": [2, 8], "step": 2},
        "width": {"log_int": [8, 64]},
        "weight_decay": {"uniform": [0.0, 0.1]},
        "batch_size": [16, 32],
        "amp": ["none", "bf16"],
        "optimizer": "adamw",
    }
    space = space_of(raw)
    assert space.dimensions["learning_rate"] == Range(0.01, 1.0, log=True)
    assert space.dimensions["optimizer"] == Choice(("adamw",))
    assert {name: d.to_yaml() for name, d in space.dimensions.items()} == raw
    assert space_of({**raw, "batch_size": {"choice": [32, 16]}}) == space


def test_numbers_are_ordered_whatever_the_file_s_order():
    assert space_of({"weight_bits": [32, 8, 16]}).dimensions["weight_bits"].values == (8, 16, 32)
    assert space_of({"amp": ["none", "bf16"]}).dimensions["amp"].values == ("none", "bf16")


def test_fixed_dimensions_have_no_coordinates():
    space = space_of({"epochs": 3, "amp": ["none", "bf16", "fp16"], "batch_size": [1, 2, 3]})
    assert space.coordinates == 3 + 1


@settings(max_examples=30)
@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1.01, 1e6),
    place=st.floats(0, 1),
    log=st.booleans(),
)
def test_a_continuous_value_comes_back_exactly(low, factor, place, log):
    dimension = Range(low, low * factor, log=log)
    value = dimension.from_unit([place])
    assert dimension.low <= value <= dimension.high
    assert dimension.from_unit(dimension.to_unit(value)) == value
