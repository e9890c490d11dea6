"""Checks of the module: gradients, what a step changes, and what a validation measures."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, RandomSampler

from litlab.checks.subject import (
    Subject,
    batches,
    cut_anew,
    difference,
    final,
    labels_of,
    only_loader,
)
from litlab.checks.verdict import Verdict, check, failed, noted, passed, skipped
from litlab.checks.watch import Watch
from litlab.training.build import Training

OVERFIT_STEPS, OVERFIT_S = 300, 20
"""At most so many steps, and seconds, on one batch; its loss should fall to SHARE of its first value."""

SHARE = 0.7

VALIDATED_TWICE = 3
"""Validation batches whose metrics are compared."""

SAME = 1e-4
"""Relative tolerance of a metric when the batches are cut differently, as sums are then rounded differently."""


@check("right", "start", "is the loss at the start that of chance?")
def starts_by_chance(subject: Subject) -> Verdict:
    """Compare the first loss with log(number of classes), the cross-entropy of a uniform prediction."""
    training = subject.built()
    labels = torch.cat([labels_of(batch) for batch in batches(only_loader(training, "train_dataloader"), 6)])
    classes = int(labels.max()) + 1
    if classes < 2 or not subject.watched.losses:
        return skipped("there is one class, or training_step returns no loss")
    loss, chance = subject.watched.losses[0], math.log(classes)
    found = f"{loss:.3g}; {classes} classes by chance: {chance:.3g}"
    if 0.5 <= loss / chance <= 1.7:
        return passed(found)
    advice = "a loss that is summed, scores that are too large at first, or a softmax before the cross-entropy"
    return noted(found, advice) if not math.isfinite(loss) or loss / chance < 3 else failed(found, advice)


@check("right", "gradients", "does every parameter get a gradient?")
def all_get_gradients(subject: Subject) -> Verdict:
    """Look for parameters whose gradient is missing, zero or not finite in all steps."""
    watch = subject.watched
    trained = watch.before.keys() - watch.frozen
    if watch.not_finite:
        advice = "lower optimizer.lr, or look for a division or a logarithm of zero"
        return failed(f"not finite: {_some(watch.not_finite)}", advice)
    if without := trained - watch.with_gradient:
        advice = "a detach() or .data on the way, a part that forward does not use, or a ReLU that is always zero"
        return failed(f"none or zero: {_some(without)}", advice)
    return passed(f"{len(trained)} parameters")


@check("right", "changes", "does a step change what it should?")
def steps_change_weights(subject: Subject) -> Verdict:
    """Compare parameters before and after training, and the number of scheduler steps."""
    watch = subject.watched
    moved = {name for name, weight in watch.before.items() if not torch.equal(weight, watch.after[name])}
    if astray := moved & watch.frozen:
        return failed(f"frozen, and changed: {_some(astray)}", "leave them out of the optimizer")
    if left_out := watch.before.keys() - watch.optimized - watch.frozen:
        advice = "give them to it in configure_optimizers, or freeze them by init.freeze"
        return failed(f"no optimizer has {_some(left_out)}", advice)
    for name, (steps, expected) in watch.schedules.items():
        if steps != expected:
            advice = "Lightning steps it: leave out scheduler.step(), or set scheduler.interval"
            return failed(f"{name} was stepped {steps} times, and should have been {expected} times", advice)
    if still := watch.before.keys() - moved - watch.frozen:
        advice = "nothing, if it is a bias before a batch normalization, which takes it away; else raise optimizer.lr"
        return noted(f"not changed in {watch.steps} steps: {_some(still)}", advice)
    if watch.frozen and not subject.told.init.freeze:
        return noted(f"frozen in the module: {_some(watch.frozen)}", "nothing, if that is meant")
    return passed(f"{len(moved)} parameters in {watch.steps} steps, {len(watch.frozen)} frozen")


def _some(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


class UntilLearned(Watch):
    """Stops the training once the loss has fallen to SHARE of its first value."""

    def latest(self) -> float:
        """Return the mean of the last ten losses, as single ones may be low by chance."""
        return fmean(self.losses[-10:])

    def has_learned(self) -> bool:
        """Return whether the loss has fallen to SHARE of its first value."""
        return self.latest() <= max(SHARE * self.losses[0], 1e-3)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, and stop once it is low."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        trainer.should_stop |= len(self.losses) >= 10 and self.has_learned()


@check("right", "overfit", "can one batch be learned by heart?")
def overfits_a_batch(subject: Subject) -> Verdict:
    """Train on one batch until its loss has fallen."""
    if not subject.built().module.automatic_optimization:
        return skipped("the module uses manual optimization")
    watch = UntilLearned()
    settings = subject.settings(
        monitored=False, limit_train_batches=1, limit_val_batches=0,
        max_epochs=subject.affordable(OVERFIT_STEPS, OVERFIT_S),
        data={"shuffle": False} if "shuffle" in subject.told.data else {},
    )  # fmt: skip
    settings = settings.model_copy(update={"augment": None})
    loader = only_loader(subject.built(), "train_dataloader")
    if isinstance(getattr(loader, "sampler", None), RandomSampler):
        return skipped("train_dataloader shuffles, so that its first batch is another each time")
    subject.train(settings, watch)
    if not watch.losses:
        return skipped("training_step returns no loss")
    found = f"loss {watch.losses[0]:.3g} to {watch.latest():.3g} in {len(watch.losses)} steps"
    if watch.has_learned():
        return passed(found)
    return failed(found, "raise optimizer.lr, or see whether inputs and labels belong together")


@check("right", "validation", "does a validation leave the training alone?")
def validation_changes_nothing(subject: Subject) -> Verdict:
    """Train with validations of one and of three batches, and compare weights and buffers."""
    if not subject.told.trainer.limit_val_batches:
        return skipped("there is no validation")
    lengths = (subject.settings(monitored=False, limit_val_batches=length) for length in (1, 3))
    short, long = (final(subject.train(one))["state_dict"] for one in lengths)
    if short.keys() != long.keys():
        return failed("it changes what a checkpoint holds", "keep in validation_step what is not to be saved elsewhere")
    other = {name for name in short if difference(short[name], long[name])}
    if weights := other & subject.watched.before.keys():
        advice = "a validation changes weights, leaves others in place, or draws random numbers: see its hooks"
        return failed(f"longer validations lead to other weights: {_some(weights)}", advice)
    if other:
        advice = "something calls train() in a validation; statistics of batch normalization then take it in"
        return failed(f"longer validations lead to other statistics: {_some(other)}", advice)
    return passed("longer validations lead to the same weights, to the bit")


@check("right", "metrics", "are the metrics of an epoch those of all its examples at once?")
def metrics_are_of_all(subject: Subject) -> Verdict:
    """Validate twice on the same batches, and once with the batches cut differently."""
    training = subject.built()
    if not is_overridden("validation_step", training.module):
        return skipped("there is no validation_step")
    given = batches(only_loader(training, "val_dataloader"), VALIDATED_TWICE)
    before = torch.get_rng_state()
    first, again = (validated(training, given) for _ in range(2))
    drawn = not torch.equal(before, torch.get_rng_state())
    if not first:
        return skipped("validation_step logs nothing")
    if told := _apart(first, again, 0):
        cause = "validation draws random numbers, as a dropout does that is left on" if drawn else "something is kept"
        return failed(f"a second time {told}: {cause}", "give dropout self.training; reset metrics after an epoch")
    count = sum(len(tree_flatten(batch)[0][0]) for batch in given)
    if count < 4:
        return skipped("a validation has fewer than four examples")
    small = max(1, count // 7)
    anew = validated(training, cut_anew(given, [small, count - small]))
    if told := _apart(first, anew, SAME):
        advice = "log means with their batch_size, or torchmetrics objects; in eval() no example knows of others"
        return failed(f"in batches of other sizes {told}", advice)
    return passed(", ".join(f"{name} {value:.4g}" for name, value in list(first.items())[:3]))


def validated(training: Training, given: Sequence[Any]) -> dict[str, float]:
    """Validate on these batches, and return the logged metrics."""
    vars(training.data)["val_dataloader"] = lambda: DataLoader(list(given), batch_size=None)  # type: ignore[arg-type]
    training.trainer.limit_val_batches = len(given)
    (logged,) = training.trainer.validate(training.module, datamodule=training.data, verbose=False)
    return dict(logged)


def _apart(one: Mapping[str, float], other: Mapping[str, float], tolerance: float) -> str | None:
    for name in one.keys() & other.keys():
        if abs(one[name] - other[name]) > tolerance * max(abs(one[name]), 1e-3):
            return f"{name} is {other[name]:.6g} instead of {one[name]:.6g}"
    return None


@check("right", "precision", "does bf16 compute what 32 bits do?")
def bf16_is_close(subject: Subject) -> Verdict:
    """Compare the losses of the first steps in bfloat16 and in 32 bits."""
    if subject.told.trainer.precision not in ("auto", "bf16-mixed", "bf16-true", "bf16"):
        return skipped(f"trainer.precision={subject.told.trainer.precision}")
    watch = Watch()
    subject.train(subject.settings(precision="bf16-mixed"), watch)
    pairs = list(zip(watch.losses, subject.watched.losses, strict=True))
    if not pairs:
        return skipped("training_step returns no loss")
    apart = max(abs(one - other) / max(abs(other), 1e-6) for one, other in pairs)
    found = f"losses of {len(pairs)} steps by up to {apart:.1%}"
    if apart <= 0.05:
        return passed(found)
    return noted(found, "set trainer.precision=32-true if the difference matters")
