"""Models by name: our own, torchvision's classifiers, or any importable function.

Shapes: n images, c channels, h = w = image_size pixels.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trainables.config import CNN_DEFAULTS, stage_width
from trainables.errors import ModelError
from trainables.stems import adapt_stem


def build_model(
    name: str,
    args: Mapping[str, Any],
    *,
    in_channels: int,
    image_size: int,
    classes: int,
    seed: int,
) -> nn.Module:
    """Build a classifier: float32, on the CPU, in training mode, initialised from `seed` alone.

    Args:
        name: `cnn`, a torchvision classifier, or `package.module:function`. A function gets those
            of in_channels, image_size and classes that its signature names, and `args`.
        args: further arguments of the model's function.
        in_channels: 1 or 3.
        image_size: height and width in pixels.
        classes: outputs.
        seed: of the initial weights. The global generator stays as it was.

    Raises:
        ModelError: the name is unknown, the arguments do not fit, or the model does not turn
            images (n, c, h, w) into scores (n, classes).
    """
    given = {"in_channels": in_channels, "image_size": image_size, "classes": classes}
    adapted: list[str] = []
    # Not torch.manual_seed, which would also seed the generators of all GPUs.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if name in LOCAL:
            model = _call(name, LOCAL[name], args, given)
        elif ":" in name:
            model = _call(name, _imported(name), args, given)
        else:
            model = _torchvision(name, args, image_size, classes)
            adapted = adapt_stem(model, in_channels, image_size)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {name} gave {type(model).__name__}, not a torch.nn.Module")
    model = model.float().train()
    _check(name, model, given, adapted)
    return model


# --- our own models ------------------------------------------------------------------------------


def cnn(
    in_channels: int,
    image_size: int,
    classes: int,
    *,
    depth: int = CNN_DEFAULTS["depth"],
    width: int = CNN_DEFAULTS["width"],
    kernel_size: int = CNN_DEFAULTS["kernel_size"],
    fc_width: int = CNN_DEFAULTS["fc_width"],
) -> nn.Module:
    """Build a plain convolutional network of `depth` stages, two convolutions each.

    Args:
        in_channels: channels of the images.
        image_size: height and width in pixels.
        classes: outputs.
        depth: stages. Between two of them the map is halved, while it has 8 pixels or more.
        width: channels of the first stage; doubled per stage, at most four times.
        kernel_size: odd.
        fc_width: units of a hidden linear layer; 0 for none.
    """
    _check_cnn(
        depth=(depth, 1), width=(width, 1), kernel_size=(kernel_size, 1), fc_width=(fc_width, 0)
    )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, size = in_channels, image_size
    for stage in range(depth):
        if stage and size >= 8:
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
            size //= 2
        wide = stage_width(width, stage)
        layers[f"stage{stage + 1}"] = nn.Sequential(
            *_conv_norm_relu(channels, wide, kernel_size),
            *_conv_norm_relu(wide, wide, kernel_size),
        )
        channels = wide
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    if fc_width:
        layers["hidden"] = nn.Linear(channels, fc_width)
        layers["relu"] = nn.ReLU()
    layers["head"] = nn.Linear(fc_width or channels, classes)
    return nn.Sequential(layers)


def _check_cnn(**arguments: tuple[object, int]) -> None:
    for name, (value, least) in arguments.items():
        if not isinstance(value, int) or value < least:
            raise ModelError(f"cnn: {name} is {value!r}; it must be an integer from {least} up")
        if name == "kernel_size" and value % 2 == 0:
            raise ModelError(f"cnn: kernel_size is {value}; it must be odd")


def _conv_norm_relu(channels: int, width: int, kernel_size: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU()]


LOCAL: dict[str, Callable[..., nn.Module]] = {
    "cnn": cnn,
}


# --- models from elsewhere -----------------------------------------------------------------------


def _imported(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a module may raise anything while it is imported
        raise ModelError(f"model {name} cannot be imported: {error!r}") from error
    if not callable(function):
        raise ModelError(f"model {name} is a {type(function).__name__}, not a function")
    return function


def _call(
    name: str, function: Callable[..., Any], args: Mapping[str, Any], given: Mapping[str, int]
) -> Any:
    """Call a model's function with what its signature takes of `given`, and all of `args`."""
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise ModelError(f"model {name}: {error}; write a Python function around it") from error
    kinds = {p.kind for p in signature.parameters.values()}
    takes_all = inspect.Parameter.VAR_KEYWORD in kinds
    taken = {k: v for k, v in given.items() if takes_all or k in signature.parameters}
    clash = sorted(args.keys() & given.keys())
    if clash:
        raise ModelError(f"model {name}: {', '.join(clash)} follow from the data, not model_args")
    try:
        signature.bind(**taken, **args)
    except TypeError as error:
        raise ModelError(
            f"model {name}: {error}; given {sorted(args)}, its signature is {signature}"
        ) from error
    try:
        return function(**taken, **args)
    except ModelError:
        raise
    except Exception as error:  # a foreign function may raise anything
        raise ModelError(f"model {name} with {dict(args)}: {error!r}") from error


def _torchvision(name: str, args: Mapping[str, Any], image_size: int, classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, [*LOCAL, *known], n=3)
        raise ModelError(
            f"model {name!r} is unknown; close names: {', '.join(close) or 'none'}. Allowed are"
            f" {', '.join(LOCAL)}, torchvision's classifiers, and package.module:function"
        )
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Side outputs help training only; they are no part of the deployed file.
        extra = {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        extra = {"image_size": image_size}
    try:
        return models.get_model(name, weights=None, num_classes=classes, **(extra | dict(args)))
    except (TypeError, ValueError) as error:
        raise ModelError(f"model {name} does not take {dict(args)}: {error}") from error


def _check(name: str, model: nn.Module, given: Mapping[str, int], adapted: Sequence[str]) -> None:
    """Run the model once, in evaluation mode so that it stays as it is."""
    in_channels, image_size, classes = given.values()
    model.eval()
    try:
        with torch.no_grad():
            scores = model(torch.zeros(2, in_channels, image_size, image_size))
    except Exception as error:  # a foreign model may raise anything
        tried = f" (tried: {', '.join(adapted)})" if adapted else ""
        raise ModelError(
            f"model {name} cannot take images of {in_channels} x {image_size} x {image_size}:"
            f" {error}{tried}; take another image_size or another model"
        ) from error
    finally:
        model.train()
    shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
    if shape != (2, classes):
        raise ModelError(f"model {name} gives {shape} for 2 images, not (2, {classes}) scores")
