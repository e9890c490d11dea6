"""Whether the network fits the data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from litlab.errors import UserError


class ClassCount(Callback):
    """Refuses a network that does not give one score a class, where the data module has `class_names`.

    It looks at the first scores of all, before a loss meets a label without one.

    Args:
        model: the settings of the model that may be changed, of which one may be called `num_classes`.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.keys = list(_num_classes(model, "model"))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the first scores.

        Raises:
            UserError: later, when they come, and are too many or too few.
        """
        self._wait(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same: since the training classes may have come or gone."""
        self._wait(trainer, pl_module)

    def _wait(self, trainer: Trainer, module: LightningModule) -> None:
        names: Sequence[str] | None = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]

        def look(_module: nn.Module, _arguments: Any, scores: Any) -> None:
            hook.remove()
            if names and isinstance(scores, Tensor) and scores.ndim == 2 and scores.shape[1] != len(names):
                shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
                hint = "; set " + " ".join(f"{key}={len(names)}" for key in self.keys) if self.keys else ""
                raise UserError(f"the data has {len(names)} classes ({shown}), the network {scores.shape[1]}{hint}")

        hook = module.register_forward_hook(look)


def _num_classes(settings: Mapping[str, Any], place: str) -> Iterator[str]:
    for key, value in settings.items():
        if key == "num_classes":
            yield f"{place}.{key}"
        elif isinstance(value, Mapping):
            yield from _num_classes(value, f"{place}.{key}")
