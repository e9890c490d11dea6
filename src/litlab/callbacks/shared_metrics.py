"""Whether each validation or test loader is measured by a metric of its own."""

from collections import defaultdict

from lightning.pytorch import Callback, LightningModule, Trainer

from litlab.errors import UserError


class SharedMetrics(Callback):
    """Refuses a metric object that a module logs for several loaders.

    Lightning does not reset it between the loaders, so that each value would also count the loaders before it.
    """

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what was logged; in the check before the training, too.

        Raises:
            UserError: two loaders share a metric object.
        """
        self._refuse_shared(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what was logged.

        Raises:
            UserError: two loaders share a metric object.
        """
        self._refuse_shared(trainer)

    def _refuse_shared(self, trainer: Trainer) -> None:
        loaders = defaultdict(set)
        for result in (trainer._results or {}).values():
            if not result.is_tensor:
                loaders[id(result.value)].add(result.meta.dataloader_idx)
            if len(loaders[id(result.value)]) > 1:
                hint = "its value would mix them; create a metric for each loader and log the one of dataloader_idx"
                raise UserError(f"{result.meta.name}: one metric object is logged for several loaders: {hint}")
