"""torchvision's networks, fitted to the data."""

from typing import cast

import torch
from torch import nn
from torchvision.models import get_model

from litlab.config.components import as_with_weights
from litlab.errors import UserError


def torchvision_network(
    name: str, num_classes: int, in_channels: int = 3, weights: str | None = None, download: bool = True
) -> nn.Module:
    """Build a network of torchvision's for images (N, in_channels, height, width) and `num_classes` classes.

    With pretrained weights, the last linear layer is drawn anew unless it has that many outputs; the first convolution
    of a network for other than 3 channels gets the mean over the channels of the pretrained filters, times 3 over their
    number, so that its outputs keep their size.

    Args:
        name: torchvision's name, such as resnet18.
        num_classes: outputs of the last linear layer.
        in_channels: channels of the images.
        weights: torchvision's name of pretrained weights, such as DEFAULT or IMAGENET1K_V1.
        download: whether to fetch them; otherwise the network is built as it is with them, its weights drawn anew.

    Raises:
        UserError: there is no such network or no such weights, or it has no last linear layer.
    """
    try:
        settings = {"weights": weights} if download else as_with_weights(f"torchvision.models.{name}", weights)
        network = get_model(name, **settings)
    except (ValueError, KeyError) as error:
        raise UserError(f"name={name}, weights={weights}: torchvision has none of that name: {error}") from error
    linear = _last(network, nn.Linear)
    if linear.out_features != num_classes:
        _replace(network, linear, nn.Linear(linear.in_features, num_classes))
    convolution = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    if convolution.in_channels != in_channels:
        _replace(network, convolution, _with_channels(convolution, in_channels))
    return cast("nn.Module", network)


def _last(network: nn.Module, kind: type[nn.Linear]) -> nn.Linear:
    layers = [layer for layer in network.modules() if isinstance(layer, kind)]
    if not layers:
        raise UserError(f"{type(network).__name__} has no linear layer to fit to the classes; build it by a function")
    return layers[-1]


def _with_channels(convolution: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """Return the convolution for another number of channels, with the mean of its filters over the channels."""
    made = nn.Conv2d(
        in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    with torch.no_grad():
        mean = convolution.weight.mean(1, keepdim=True) * convolution.in_channels / in_channels
        made.weight.copy_(mean.expand_as(made.weight))
        if made.bias is not None and convolution.bias is not None:
            made.bias.copy_(convolution.bias)
    return made


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    name = next(name for name, layer in network.named_modules() if layer is old)
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, new)
