"""The optimizer of a module, in groups of parameters where the config has such."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from litlab.config.components import build
from litlab.errors import UserError
from litlab.training.names import matching


class OptimizerFactory:
    """Makes the optimizer from the module's parameters.

    Args:
        node: the config's `optimizer`. Its `groups` are settings of some parameters by the group's name, each with the
            patterns of their names as `params`; or a component that makes torch's list of groups from the module.

    Attributes:
        module: whose parameters they are; set as soon as it is built.
    """

    module: nn.Module

    def __init__(self, node: Mapping[str, Any]) -> None:
        self.node = {key: value for key, value in node.items() if key != "groups"}
        self.groups: Mapping[str, Any] = node.get("groups") or {}

    def __call__(self, parameters: Iterable[Any]) -> Optimizer:
        """Make the optimizer.

        Raises:
            UserError: it cannot be built, or a group's pattern matches nothing.
        """
        made = self._grouped(list(parameters)) if self.groups else parameters
        optimizer: Optimizer = build(self.node, made, key="optimizer", kind=Optimizer)
        return optimizer

    def _grouped(self, parameters: list[Any]) -> Any:
        if "_target_" in self.groups:
            make: Callable[..., Any] = build({**self.groups, "_partial_": True}, key="optimizer.groups")
            return make(self.module)
        if any(isinstance(one, Mapping) for one in parameters):
            hint = "leave out optimizer.groups, or let it pass all parameters"
            raise UserError(f"optimizer.groups: configure_optimizers makes groups of its own; {hint}")
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        rest = {names[id(one)]: one for one in parameters if id(one) in names}
        groups = []
        for name, settings in self.groups.items():
            patterns = settings["params"] if isinstance(settings["params"], list) else [settings["params"]]
            own = {found: rest.pop(found) for found in matching(f"optimizer.groups.{name}.params", patterns, rest)}
            groups.append({**settings, "name": name, "params": list(own.values())})
        return [*groups, {"name": "rest", "params": list(rest.values())}] if rest else groups
