"""One point of the search space, and the settings that all trials of a sweep share. No torch here.

Two configs that mean the same are equal after `canonical`: what cannot matter (the pruning ratio
when nothing is pruned, the momentum of adamw) takes its default, and ratios that end in the same
channel counts become one ratio.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ROUND_TO = 8
"""Pruned widths are multiples of this: kernels run in vectors of 8 or 16 channels, and unaligned
widths were measured at up to 4x the latency of aligned ones (mobilenet_v3_small, batch 32)."""

BITS_ON_CPU: dict[tuple[int, int], str] = {
    (32, 32): "float32",
    (16, 32): "weights stored in 16 bits, computed in float32",
    (8, 32): "weights stored in 8 bits, computed in float32",
    (4, 32): "weights stored in 4 bits, computed in float32",
    (8, 8): "integer convolutions",
    (4, 8): "weights stored in 4 bits, integer convolutions",
}
"""(weight_bits, activation_bits) that ONNX Runtime on a CPU really executes. A W32A8 or W16A8 file
silently runs as W8A8, and 16-bit activations are computed in float32."""
BITS_ON_CUDA: dict[tuple[int, int], str] = {
    **{pair: text for pair, text in BITS_ON_CPU.items() if pair[1] == 32},
    (16, 16): "float16",
}
"""The same of its CUDA provider, which has no integer convolutions: it would compute a W8A8 file
in float32, between roundings."""
BITS_ON = {"cpu": BITS_ON_CPU, "cuda": BITS_ON_CUDA}
"""By `deploy.device`."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CnnArguments(_Frozen):
    """Arguments of the `cnn` model, see `models.cnn`."""

    depth: int = Field(default=3, ge=1, le=8)
    """Stages of two convolutions each."""
    width: int = Field(default=32, ge=1, le=1024)
    """Channels of the first stage, see `stage_width`."""
    kernel_size: Literal[1, 3, 5, 7, 9, 11] = 3
    """Height and width of every convolution."""
    fc_width: int = Field(default=0, ge=0, le=8192)
    """Units of a hidden layer in front of the last one. 0: none."""


CNN_DEFAULTS: dict[str, int] = CnnArguments().model_dump()


class DataConfig(_Frozen):
    """Which images, and how they are split."""

    name: Literal["digits", "mnist", "fashion_mnist", "cifar10", "image_folder"]
    """`digits` is bundled; `mnist`, `fashion_mnist` and `cifar10` are downloaded by torchvision;
    `image_folder` reads any folder with one subfolder per class."""
    path: str | None = None
    """Folder of `image_folder`; or where the torchvision sets lie (None: the cache)."""
    image_size: int | None = Field(default=None, ge=4, le=1024)
    """Height and width in pixels after resizing. None: as the data come; 64 for `image_folder`."""
    channels: Literal[1, 3] | None = None
    """1 gray, 3 RGB. None: as the data come; 3 for `image_folder`."""
    validation_share: float = Field(default=0.15, gt=0, lt=0.9)
    """Share of the training images that the search sees as `accuracy`."""
    test_share: float = Field(default=0.15, gt=0, lt=0.9)
    """Share held out for `test_accuracy`, where the data have no test part of their own."""
    split_seed: int = 0
    """Draws the split. It does not follow `seed`, so that studies stay comparable."""

    @model_validator(mode="after")
    def _path_where_needed(self) -> DataConfig:
        if self.name == "image_folder" and not self.path:
            raise ValueError("image_folder needs `path`, the folder with one subfolder per class")
        if self.name == "digits" and self.path:
            raise ValueError("digits is bundled and takes no `path`")
        return self


class DeployConfig(_Frozen):
    """Where latency is measured."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Execution provider of ONNX Runtime."""
    batch_size: int = Field(default=1, ge=1, le=4096)
    """Images per inference call."""
    threads: int = Field(default=1, ge=1, le=256)
    """Threads of one inference call. At 1 the clock is CPU time, which repeats to 1 % on a busy
    machine; above, it is wall time."""


class TrialConfig(_Frozen):
    """One sampled point: model and training part, compression part, seed."""

    # --- model -----------------------------------------------------------------------------
    model: str = "cnn"
    """`cnn`, a torchvision classifier, or `package.module:function`."""
    model_args: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """Arguments of the model's function."""

    # --- training --------------------------------------------------------------------------
    learning_rate: float = Field(default=0.05, gt=0, le=100)
    """Peak of the schedule: linear warm-up, then cosine to zero."""
    batch_size: int = Field(default=64, ge=1, le=65536)
    """Images per training step."""
    epochs: int = Field(default=10, ge=1, le=10000)
    """Passes over the training images in all, those after pruning included."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Of torch."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd (Nesterov when above 0)."""
    weight_decay: float = Field(default=5e-4, ge=0, le=1)
    """Of weights, not of biases and norms; decoupled from the gradient with adamw."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps with a linearly rising learning rate."""
    augmentation: Literal["none", "crop", "crop_flip"] = "none"
    """`crop`: random shift by up to 1/8 of the size; `crop_flip`: and mirrored left to right."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    """Autocast type while training; fp16 with dynamic loss scaling. Never changes the file."""

    # --- compression -----------------------------------------------------------------------
    pruning_method: Literal["none", "filter", "neuron", "weight"] = "none"
    """`filter`: convolution filters and hidden units go; `neuron`: hidden units of fully connected
    layers alone; `weight`: single weights become 0, which shrinks the deflated file only."""
    pruning_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of the channels, units or weights REMOVED; removing a share p of the channels takes
    about 1-(1-p)^2 of a conv layer's weights."""
    pruning_criterion: Literal["l1", "l2", "taylor", "bn_scale", "random"] = "l2"
    """What makes a channel weak: see `importance.py`."""
    pruning_scope: Literal["uniform", "global", "sensitivity"] = "uniform"
    """`uniform`: every layer loses the ratio; `global`: the weakest of the whole network go;
    `sensitivity`: layers that accuracy depends on lose less. All end at the same size."""
    pruning_schedule: Literal["one_shot", "gradual"] = "one_shot"
    """`gradual`: from epoch to epoch, over the first half of what follows `prune_at`."""
    prune_at: float = Field(default=0.5, ge=0, lt=1)
    """Share of the epochs before pruning; the rest trains the smaller model."""
    weight_bits: Literal[32, 16, 8, 4] = 32
    """Bits of a stored weight."""
    activation_bits: Literal[32, 16, 8] = 32
    """Bits that layers compute with; see BITS_ON for the pairs that are really executed."""
    quantization: Literal["ptq", "qat"] = "ptq"
    """`ptq`: after training; `qat`: the last epochs train with the rounding of the file."""
    qat_at: float = Field(default=0.75, ge=0, lt=1)
    """Share of the epochs before quantization-aware training begins."""
    calibration: Literal["minmax", "percentile", "entropy"] = "minmax"
    """How the range of an 8-bit activation is chosen: see `calibrate.py`."""
    calibration_images: int = Field(default=256, ge=1, le=65536)
    """Training images that the ranges are seen on."""

    seed: int = 0

    @field_validator("model_args", mode="after")
    @classmethod
    def _sorted_args(cls, args: dict[str, Any]) -> dict[str, Any]:
        return dict(sorted(args.items()))

    def canonical(self) -> TrialConfig:
        """Give the config that stands for all that mean the same as this one."""
        changes: dict[str, Any] = {}
        if self.model == "cnn":
            known = {k: v for k, v in self.model_args.items() if k in CNN_DEFAULTS}
            changes["model_args"] = dict(sorted((CNN_DEFAULTS | known).items()))
        if self.optimizer == "adamw":
            changes["momentum"] = _default("momentum")
        known_args = self.model_copy(update=changes)
        return self.model_copy(
            update=changes | known_args._pruning_changes() | self._quantization_changes()
        )

    def _pruning_changes(self) -> dict[str, Any]:
        """Give canonical values of what pruning does not look at, and of its ratio."""
        method, ratio = self.pruning_method, self._canonical_ratio()
        if not ratio:
            return {name: _default(name) for name in PRUNING_FIELDS}
        changes: dict[str, Any] = {"pruning_ratio": ratio}
        same_as_l2 = {"filter": (), "neuron": ("bn_scale",), "weight": ("bn_scale", "l1")}
        if self.pruning_criterion in same_as_l2[method]:
            changes["pruning_criterion"] = "l2"  # a unit has no batch norm, a weight no norm
        if method == "neuron":
            changes["pruning_scope"] = "uniform"
        if len(self.pruning_steps) == 1:
            changes["pruning_schedule"] = "one_shot"
        return changes

    def _canonical_ratio(self) -> float:
        if self.pruning_method == "none" or self.pruning_ratio == 0:
            return 0.0
        if self.model != "cnn" or self.pruning_method == "weight":
            return self.pruning_ratio
        # The other scopes end at the size of the uniform one, so its breakpoints hold for all.
        hidden = [int(w) for w in [self.model_args["fc_width"]] if w]
        filters = cnn_widths(self.model_args) if self.pruning_method == "filter" else []
        return canonical_ratio([*filters, *hidden], self.pruning_ratio)

    def _quantization_changes(self) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if self.weight_bits > 8:
            changes |= {"quantization": "ptq"}
        if self.weight_bits > 8 or self.quantization == "ptq":
            changes |= {"qat_at": _default("qat_at")}
        if self.activation_bits != 8:
            changes |= {name: _default(name) for name in ("calibration", "calibration_images")}
        return changes

    # --- epochs at which something happens -------------------------------------------------

    @property
    def prune_after(self) -> int:
        """Epochs before the first pruning."""
        return min(round(self.prune_at * self.epochs), self.epochs - 1)

    @property
    def pruning_steps(self) -> dict[int, float]:
        """Give for each epoch with a pruning before it the share of the ratio reached then.

        Gradual steps follow the cubic of Zhu & Gupta 2017 (arXiv:1710.01878).
        """
        steps = max(1, (self.epochs - self.prune_after) // 2)
        if self.pruning_schedule == "one_shot":
            steps = 1
        return {self.prune_after + i: 1 - (1 - (i + 1) / steps) ** 3 for i in range(steps)}

    @property
    def qat_after(self) -> int | None:
        """Epochs before quantization-aware training, which follows all pruning; None without."""
        if self.quantization == "ptq":
            return None
        pruned = max(self.pruning_steps) if self.pruning_method != "none" else 0
        return max(pruned, min(round(self.qat_at * self.epochs), self.epochs - 1))

    @property
    def shared_epochs(self) -> int:
        """Epochs that depend on the training part alone."""
        qat = self.qat_after
        return self.prune_after if qat is None else min(self.prune_after, qat)

    # --- parts -----------------------------------------------------------------------------

    def structure_part(self) -> dict[str, Any]:
        """Give what decides size and latency of the file, and nothing else.

        With a scope other than uniform the trained weights decide too: see `fixed_structure`.
        """
        return {k: v for k, v in self.model_dump().items() if k in STRUCTURE_FIELDS}

    @property
    def fixed_structure(self) -> bool:
        """Whether the structure part alone decides the shape of the network."""
        return self.pruning_scope == "uniform" or self.pruning_method in ("none", "weight")

    @property
    def compressed(self) -> bool:
        """Whether anything was pruned, or stored in fewer bits."""
        return self.pruning_method != "none" or self.weight_bits < 32

    def training_part(self) -> dict[str, Any]:
        """Give what decides the weights before pruning."""
        return {k: v for k, v in self.model_dump().items() if k not in COMPRESSION_FIELDS}

    @property
    def trial_id(self) -> str:
        """Eight hexadecimal digits that name this config: equal configs, equal name."""
        text = json.dumps(self.canonical().model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


PRUNING_FIELDS = frozenset(
    {
        "pruning_method",
        "pruning_ratio",
        "pruning_criterion",
        "pruning_scope",
        "pruning_schedule",
        "prune_at",
    }
)
COMPRESSION_FIELDS = PRUNING_FIELDS | {
    "weight_bits",
    "activation_bits",
    "quantization",
    "qat_at",
    "calibration",
    "calibration_images",
}
STRUCTURE_FIELDS = frozenset(
    {"model", "model_args", "pruning_method", "pruning_ratio", "weight_bits", "activation_bits"}
)
MODEL_ARGUMENT_FIELDS = frozenset(CNN_DEFAULTS)
"""Dimensions that are arguments of the model rather than fields of TrialConfig."""


@cache
def _default(field: str) -> Any:
    return TrialConfig.model_fields[field].default


def cnn_widths(args: dict[str, Any]) -> list[int]:
    """Give the channels of the stages of a `cnn`, which filter pruning can narrow."""
    return [stage_width(int(args["width"]), stage) for stage in range(int(args["depth"]))]


def stage_width(width: int, stage: int) -> int:
    """Give the channels of one stage of a `cnn`: doubled per stage, at most four times `width`."""
    return width * min(1 << stage, 4)


def kept_channels(width: int, ratio: float, round_to: int = ROUND_TO) -> int:
    """Give how many of `width` channels stay: the nearest multiple of `round_to`, never none.

    >>> [kept_channels(64, r) for r in (0.0, 0.25, 0.5, 0.99)]
    [64, 48, 32, 8]
    >>> kept_channels(20, 0.1), kept_channels(6, 0.5)
    (16, 6)
    """
    if ratio == 0:
        return width
    multiple = int(width * (1 - ratio) / round_to + 0.5) * round_to
    return min(width, max(round_to, multiple))


def canonical_ratio(widths: list[int], ratio: float) -> float:
    """Give the ratio that stands for all ratios with the same kept channels; 0 if none goes.

    The kept channels change only at the breakpoints where `width * (1 - ratio) / ROUND_TO` crosses
    a half; between two of them every ratio gives the same network, and the middle stands for all.
    """
    kept = tuple(kept_channels(w, ratio) for w in widths)
    if kept == tuple(widths):
        return 0.0
    # Rounding can put `ratio` exactly on an edge; then it stands for itself.
    return _ratio_by_channels(tuple(widths)).get(kept, ratio)


@lru_cache(maxsize=4096)
def _ratio_by_channels(widths: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """Give a ratio for every set of kept channels. Searchers ask for thousands of them."""
    breaks = {0.0, 1.0}
    for w in set(widths):
        breaks |= {1 - (k + 0.5) * ROUND_TO / w for k in range(1, w // ROUND_TO + 1)}
    edges = sorted(b for b in breaks if 0 <= b <= 1)
    middles = [round((low + high) / 2, 6) for low, high in pairwise(edges) if high - low > 1e-9]
    # The lowest ratio comes last, so that it is the one that stays.
    return {tuple(kept_channels(w, m) for w in widths): m for m in reversed(middles)}
