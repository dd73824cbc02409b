"""Configs that mean the same are one config."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainables.config import (
    CNN_DEFAULTS,
    COMPRESSION_FIELDS,
    MODEL_ARGUMENT_FIELDS,
    ROUND_TO,
    CnnArguments,
    DataConfig,
    TrialConfig,
    canonical_ratio,
    cnn_widths,
    kept_channels,
    stage_width,
)

RATIOS = st.floats(0, 1, exclude_max=True)
WIDTHS = st.lists(st.integers(1, 600), min_size=1, max_size=5)


@st.composite
def configs(draw) -> TrialConfig:
    """Draw configs of all kinds, on a few values so that equal meanings are common."""
    model = draw(st.sampled_from(["cnn", "resnet18"]))
    args = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "depth": st.integers(1, 4),
                "width": st.sampled_from([4, 8, 16, 20, 64]),
                "kernel_size": st.sampled_from([3, 5]),
            },
        )
    )
    return TrialConfig(
        model=model,
        model_args=args if model == "cnn" else {},
        optimizer=draw(st.sampled_from(["sgd", "adamw"])),
        momentum=draw(st.sampled_from([0.0, 0.5])),
        pruning_method=draw(st.sampled_from(["none", "filter", "neuron", "weight"])),
        pruning_criterion=draw(st.sampled_from(["l1", "l2", "bn_scale"])),
        pruning_scope=draw(st.sampled_from(["uniform", "global"])),
        pruning_schedule=draw(st.sampled_from(["one_shot", "gradual"])),
        epochs=draw(st.sampled_from([1, 3, 10])),
        quantization=draw(st.sampled_from(["ptq", "qat"])),
        qat_at=draw(st.sampled_from([0.5, 0.75])),
        calibration=draw(st.sampled_from(["minmax", "entropy"])),
        pruning_ratio=draw(st.sampled_from([0.0, 0.01, 0.4, 0.5]) | RATIOS),
        prune_at=draw(st.sampled_from([0.2, 0.5])),
        weight_bits=draw(st.sampled_from([32, 8])),
    )


# --- canonical -------------------------------------------------------------------------------


@given(configs())
def test_canonical_is_reached_in_one_step(config):
    assert config.canonical().canonical() == config.canonical()


@given(configs(), configs())
def test_equal_meaning_is_equal_name(first, second):
    same = first.canonical() == second.canonical()
    assert (first.trial_id == second.trial_id) == same
    assert first.canonical().trial_id == first.trial_id


@given(configs())
def test_the_name_survives_json(config):
    assert TrialConfig.model_validate_json(config.model_dump_json()).trial_id == config.trial_id


def test_what_cannot_matter_takes_its_default():
    plain = TrialConfig(optimizer="adamw", momentum=0.3, pruning_ratio=0.5, prune_at=0.1)
    assert plain.canonical() == TrialConfig(optimizer="adamw", model_args=CNN_DEFAULTS)
    filtered = TrialConfig(pruning_method="filter", pruning_ratio=0.0)
    assert filtered.trial_id == TrialConfig().trial_id


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"pruning_scope": "global"}, {}),
        ({"pruning_method": "neuron", "pruning_ratio": 0.5}, {}),  # no hidden layer
        (
            {"pruning_method": "weight", "pruning_ratio": 0.5, "pruning_criterion": "l1"},
            {"pruning_method": "weight", "pruning_ratio": 0.5},
        ),
        (
            {"pruning_method": "filter", "pruning_ratio": 0.5, "epochs": 2},
            {
                "pruning_method": "filter",
                "pruning_ratio": 0.5,
                "epochs": 2,
                "pruning_schedule": "gradual",
            },
        ),
        ({"quantization": "qat", "qat_at": 0.5, "weight_bits": 16}, {"weight_bits": 16}),
        (
            {"calibration": "entropy", "calibration_images": 8, "weight_bits": 8},
            {"weight_bits": 8},
        ),
    ],
)
def test_compression_that_cannot_matter_is_left_out(first, second):
    assert TrialConfig(**first).trial_id == TrialConfig(**second).trial_id


@pytest.mark.parametrize(
    "changes",
    [
        {"pruning_criterion": "taylor"},
        {"pruning_scope": "sensitivity"},
        {"pruning_schedule": "gradual"},
        {"pruning_method": "weight"},
        {"quantization": "qat", "weight_bits": 4},
        {"calibration": "percentile", "activation_bits": 8, "weight_bits": 8},
    ],
)
def test_compression_that_matters_stays(changes):
    base = TrialConfig(pruning_method="filter", pruning_ratio=0.5)
    assert base.model_copy(update=changes).trial_id != base.trial_id


def test_gradual_pruning_follows_the_cubic_and_leaves_epochs_to_recover():
    config = TrialConfig(
        epochs=12, pruning_method="filter", pruning_ratio=0.5, pruning_schedule="gradual"
    )
    steps = config.pruning_steps
    assert list(steps) == [6, 7, 8]
    assert list(steps.values()) == pytest.approx([1 - (2 / 3) ** 3, 1 - (1 / 3) ** 3, 1.0])


def test_quantization_aware_training_follows_all_pruning():
    config = TrialConfig(
        epochs=8, pruning_method="filter", pruning_ratio=0.5, pruning_schedule="gradual",
        quantization="qat", weight_bits=4, qat_at=0.1,
    )  # fmt: skip
    assert config.qat_after == max(config.pruning_steps)
    assert TrialConfig(epochs=4, quantization="qat", weight_bits=8).qat_after == 3
    assert TrialConfig(epochs=4).qat_after is None


def test_what_matters_stays():
    base = TrialConfig(pruning_method="filter", pruning_ratio=0.5)
    for change in (
        {"momentum": 0.1},
        {"prune_at": 0.1},
        {"pruning_ratio": 0.8},
        {"weight_bits": 8},
        {"seed": 1},
        {"model_args": {"width": 16}},
        {"amp": "bf16"},
    ):
        assert base.model_copy(update=change).trial_id != base.trial_id


def test_arguments_of_other_models_and_the_order_of_arguments_do_not_matter():
    first = TrialConfig(model_args={"width": 16, "depth": 2, "stray": 1})
    second = TrialConfig(model_args={"depth": 2, "width": 16})
    assert first.trial_id == second.trial_id
    foreign = TrialConfig(model="nets:small", model_args={"stray": 1})
    assert foreign.canonical().model_args == {"stray": 1}


def test_training_and_compression_share_no_field():
    config = TrialConfig()
    assert config.training_part().keys() | COMPRESSION_FIELDS == TrialConfig.model_fields.keys()
    assert not config.training_part().keys() & COMPRESSION_FIELDS


# --- channels --------------------------------------------------------------------------------


@given(WIDTHS, RATIOS)
def test_a_canonical_ratio_keeps_the_same_channels(widths, ratio):
    canonical = canonical_ratio(widths, ratio)
    assert 0 <= canonical < 1
    assert [kept_channels(w, canonical) for w in widths] == [
        kept_channels(w, ratio) for w in widths
    ]


@given(WIDTHS, RATIOS)
def test_a_canonical_ratio_stands_for_itself(widths, ratio):
    canonical = canonical_ratio(widths, ratio)
    assert canonical_ratio(widths, canonical) == canonical


@given(WIDTHS, RATIOS, RATIOS)
def test_equal_channels_are_almost_always_one_ratio(widths, first, second):
    """A ratio within rounding of an edge may stand for itself."""
    kept = [[kept_channels(w, r) for w in widths] for r in (first, second)]
    canonical = [canonical_ratio(widths, r) for r in (first, second)]
    if kept[0] == kept[1] and first not in canonical and second not in canonical:
        assert canonical[0] == canonical[1]


@given(st.integers(1, 2000), RATIOS)
def test_kept_channels_are_aligned_and_never_none(width, ratio):
    kept = kept_channels(width, ratio)
    assert 1 <= kept <= width
    assert kept % ROUND_TO == 0 or kept == width


@given(st.integers(1, 2000), RATIOS, RATIOS)
def test_a_higher_ratio_keeps_no_more(width, first, second):
    low, high = sorted((first, second))
    assert kept_channels(width, high) <= kept_channels(width, low)


def test_stages_double_to_four_times():
    assert [stage_width(8, stage) for stage in range(5)] == [8, 16, 32, 32, 32]
    assert cnn_widths({"depth": 3, "width": 8, "kernel_size": 3}) == [8, 16, 32]


# --- fields ----------------------------------------------------------------------------------


def test_dimensions_of_the_cnn_are_its_arguments():
    assert CnnArguments.model_fields.keys() == MODEL_ARGUMENT_FIELDS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pruning_ratio", 1.0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("epochs", 0),
        ("weight_bits", 2),
        ("amp", "fp8"),
        ("unknown", 1),
    ],
)
def test_values_out_of_bounds_are_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        TrialConfig.model_validate({field: value})


def test_a_data_path_stands_where_it_is_needed():
    with pytest.raises(ValidationError, match="needs `path`"):
        DataConfig(name="image_folder")
    with pytest.raises(ValidationError, match="takes no `path`"):
        DataConfig(name="digits", path="x")
    assert DataConfig(name="cifar10").path is None
