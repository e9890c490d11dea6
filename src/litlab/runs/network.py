"""The network that a run has trained, by itself: needs neither Hydra nor lightning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from litlab.checking import check_components
from litlab.components import build
from litlab.errors import UserError
from litlab.runs.checkpoint import load_weights


def network(settings: Mapping[str, Any], checkpoint: Path) -> nn.Module:
    """The network that a run's settings name as `model.net`, with the weights of a checkpoint, in eval mode.

    Raises:
        UserError: there is none, the settings ask for what no config may, or the checkpoint is damaged or of another.
    """
    model = settings.get("model")
    node = model.get("net") if isinstance(model, dict) else None
    if not (isinstance(node, dict) and "_target_" in node):
        raise UserError(
            "the run's model has no network of its own: that takes a class as `net` in its config, with a _target_, "
            "and as self.net in its LightningModule"
        )
    check_components({"model": {"net": node}})
    net = build(node)
    if not isinstance(net, nn.Module):
        raise UserError(f"model.net._target_={node['_target_']}: is no torch.nn.Module")
    load_weights(net, checkpoint, "net.")
    return net.eval()
