"""Metrics that settings name, and that must therefore be logged."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Self

from lightning.pytorch import Callback, LightningModule, Trainer

from litlab.config import schema
from litlab.errors import UserError

log = logging.getLogger(__name__)

MEASURED_BY_THE_LAB = ("training_seconds", "examples_per_second")


class RequiredMetrics(Callback):
    """Refuses a metric that a setting names and nothing logs, as soon as that is certain.

    Metrics of the validation are looked for after the one before the first step, or else after the first one; these
    are names that begin with `val`, and the monitored metric. The others are looked for after the first epoch, whose
    training may log them. Names that begin with `test` are measured only at the end, for a sweep.

    Args:
        metrics: the names by the settings that name them, such as `callbacks.stop.monitor`.
        has_test: whether the run ends with a test.
        optional: settings that do nothing where the metric is missing; then there is one line in the log.
    """

    def __init__(self, metrics: Mapping[str, str], has_test: bool, optional: frozenset[str] = frozenset()) -> None:
        self.metrics = {key: name for key, name in metrics.items() if name not in MEASURED_BY_THE_LAB}
        self.has_test = has_test
        self.optional = optional
        self._was_validated = False

    @classmethod
    def of_run(cls, config: schema.Train, callbacks: Mapping[str, Callback]) -> Self:
        """Collect what the config's settings name, and the callbacks by their attribute `monitor`.

        Args:
            config: the run's.
            callbacks: the run's, by their config keys.
        """
        metrics: dict[str, Any] = {"checkpoint.monitor": config.checkpoint.monitor}
        metrics |= {f"{key}.monitor": getattr(callback, "monitor", None) for key, callback in callbacks.items()}
        optional = {f"{key}.monitor" for key, callback in callbacks.items() if not getattr(callback, "strict", True)}
        named = {key: name for key, name in metrics.items() if isinstance(name, str)}
        return cls(named, config.test, frozenset(optional))

    @classmethod
    def of_sweep(cls, config: schema.Train, objectives: Iterable[str]) -> Self:
        """Collect the metrics that a sweep compares its jobs by, besides the monitored one."""
        others = (name for name in objectives if name != config.checkpoint.monitor)
        return cls({f"sweep.objectives.{name}": name for name in others}, config.test)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the metrics of the validation."""
        self._require(trainer, self._of_validation())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add what schedules look at; without validation data, refuse what only a validation measures."""
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and config.monitor:
                self.metrics.setdefault("scheduler.monitor", config.monitor)
        if not any(trainer.num_val_batches):
            self._require(trainer, self._of_validation())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the metrics of the first validation."""
        if not trainer.sanity_checking and not self._was_validated:
            self._was_validated = True
            self._require(trainer, self._of_validation())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for all of them after the first epoch; there may be no validation yet."""
        of_validation = {} if self._was_validated else self._of_validation()
        self._require(trainer, {key: name for key, name in self.metrics.items() if key not in of_validation})
        self.metrics = of_validation

    def _of_validation(self) -> dict[str, str]:
        named = self.metrics.items()
        return {key: name for key, name in named if key == "checkpoint.monitor" or name.startswith("val")}

    def _require(self, trainer: Trainer, metrics: Mapping[str, str]) -> None:
        logged = _logged_names(trainer)
        for key, name in metrics.items():
            is_objective = key.startswith("sweep.objectives.")
            if name in logged or (is_objective and self.has_test and name.startswith("test")):
                continue
            setting = "sweep.objectives" if is_objective else key
            problem = f"{setting}={name}: no such metric; {self._hint(logged, key, name)}"
            if key not in self.optional:
                raise UserError(problem)
            log.warning("%s; it has no effect", problem)
            self.metrics.pop(key)

    def _hint(self, logged: list[str], key: str, name: str) -> str:
        if name.startswith("test") and key.startswith("sweep.objectives."):
            return "the run ends without a test; add test=true"
        if logged:
            return f"{'the run' if self._was_validated else 'validation'} logs {', '.join(sorted(logged))}"
        return f"there is no validation data{'; set checkpoint.monitor=null' if key == 'checkpoint.monitor' else ''}"


def _logged_names(trainer: Trainer) -> list[str]:
    """Names of what validation has logged; Lightning's sanity check hides those of several validation loaders."""
    results = trainer.fit_loop.epoch_loop.val_loop._results
    epoch = [results._forked_name(result, on_step=False) for result in results.values() if result.meta.on_epoch]
    return list(dict.fromkeys([*trainer.callback_metrics, *(name for names in epoch for name in names)]))
