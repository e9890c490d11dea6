"""The network that a run has trained, by itself: needs neither Hydra nor lightning."""

from pathlib import Path

from torch import nn

from litlab.config.components import build, without_downloads
from litlab.config.trust import network_settings
from litlab.config.validate import check_components
from litlab.errors import UserError
from litlab.runs.checkpoint import load_weights


def network(config: Path, checkpoint: Path) -> nn.Module:
    """The network that a run's config.yaml has as `model.net`, with the weights of a checkpoint, in eval mode.

    Raises:
        UserError: there is none, the config was made elsewhere and names something else, or the checkpoint is damaged
            or of another network.
    """
    node = network_settings(config)
    if not (isinstance(node, dict) and "_target_" in node):
        raise UserError(
            "the run's model has no network of its own: that takes a class as `net` in its config, with a _target_, "
            "and as self.net in its LightningModule"
        )
    check_components({"model": {"net": node}})
    net: nn.Module = build(without_downloads(node), key="model.net", kind=nn.Module)
    load_weights(net, checkpoint, "net.")
    return net.eval()
