"""Checks of speed: what a step costs beside a plain loop, and which settings are faster."""

import inspect
import resource
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from litlab.checks.subject import Subject
from litlab.checks.verdict import NotCheckable, Verdict, check, noted, passed
from litlab.config import schema

STEPS = 40
"""Steps to measure; fewer if they would take longer than MEASURING_S."""

MEASURING_S = 4

BEFORE = 5

WORTH = 1.05
"""Smallest speed-up that is reported."""


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records where user code reads a number off the device, which synchronizes a GPU.

    Attributes:
        lines: FILE:LINE of each such place.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation."""
        if func is torch.ops.aten._local_scalar_dense.default:
            own = [frame for frame in traceback.extract_stack() if _is_own(frame.filename)]
            if own:
                self.lines.add(f"{Path(own[-1].filename).name}:{own[-1].lineno}")
        return func(*args, **(kwargs or {}))


def _is_own(file: str) -> bool:
    """Return whether a file belongs to the user, not to a library or the lab."""
    library, lab = Path(torch.__file__).parents[1], Path(__file__).parents[1]
    return Path(file).is_file() and not any(Path(file).is_relative_to(one) for one in (library, lab, sys.base_prefix))


SILENT = dict.fromkeys(("log", "log_dict"), lambda *_, **__: None)
"""Replacements of a module's logging methods."""


class Silent(Callback):
    """Silences the logging of a module."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the methods."""
        vars(pl_module).update(SILENT)


class Bare(Callback):
    """Runs the same operations in a plain loop before the training, and measures a number of steps.

    Attributes:
        seconds: mean time of each part of a step.
        examples: batch size.
        waits: places where a number is read off the device.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds: dict[str, float] = {}
        self.examples = 0
        self.waits: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure."""
        vars(pl_module).update(SILENT)
        try:
            self._measure(trainer, pl_module)
        finally:
            for name in SILENT:
                del vars(pl_module)[name]

    def _measure(self, trainer: Trainer, module: LightningModule) -> None:
        data, (optimizer,) = trainer.datamodule, trainer.optimizers  # type: ignore[attr-defined]
        spent: dict[str, float] = defaultdict(float)
        arguments = min(2, len(inspect.signature(module.training_step).parameters))
        loader = cycle(data.train_dataloader())
        for number in range(BEFORE + self.steps):
            if number == BEFORE:
                spent.clear()
            clock = Clock(spent, trainer)
            batch = next(loader)
            clock.was("data")
            batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            clock.was("transfer")
            with trainer.precision_plugin.forward_context():
                output = module.training_step(*(batch, number)[:arguments])
            loss: Any = output["loss"] if isinstance(output, Mapping) else output
            clock.was("forward")
            optimizer.zero_grad()
            loss.backward()
            clock.was("backward")
            optimizer.optimizer.step() if hasattr(optimizer, "optimizer") else optimizer.step()
            clock.was("optimizer")
        with Waits() as waits, trainer.precision_plugin.forward_context():
            module.training_step(*(batch, number)[:arguments])
        self.waits = waits.lines
        self.examples = len(next(leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor)))
        self.seconds = {part: seconds / self.steps for part, seconds in spent.items()}


class Clock:
    """Adds up the time of each part of a step; on a GPU it synchronizes first."""

    def __init__(self, spent: dict[str, float], trainer: Trainer) -> None:
        self._spent, self._is_cuda = spent, trainer.strategy.root_device.type == "cuda"
        self._since = time.perf_counter()

    def was(self, part: str) -> None:
        """Add the time since the last call to this part."""
        if self._is_cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self._spent[part] += now - self._since
        self._since = now


class Pace(Callback):
    """Measures the last epoch, after everything has been warmed up.

    Attributes:
        seconds: mean time of a batch.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = (time.perf_counter() - self._began) / float(trainer.num_training_batches)


def _step_of(subject: Subject, settings: schema.Train, *callbacks: Callback) -> float:
    """Train, and return the seconds of a batch."""
    pace = Pace()
    subject.train(settings, pace, *callbacks)
    return pace.seconds


def _settings(subject: Subject, **trainer: Any) -> schema.Train:
    """Return the settings of a training to measure, in the precision of the config and without validation."""
    told = subject.told.trainer
    steps = subject.affordable(STEPS, MEASURING_S)
    cut = {"precision": told.precision, "max_epochs": 2, "limit_train_batches": steps, "limit_val_batches": 0}
    return subject.settings(monitored=False, **cut | trainer)


@lru_cache(maxsize=1)
def _bare(subject: Subject) -> Bare:
    """Run the plain loop, once for all checks of a subject.

    Raises:
        NotCheckable: the module has no plain loop.
    """
    if subject.watched.optimizers in ([], [torch.optim.LBFGS]) or len(subject.watched.optimizers) > 1:
        raise NotCheckable("there is no plain loop for manual optimization, several optimizers or LBFGS")
    bare = Bare(subject.affordable(STEPS, MEASURING_S))
    subject.train(_settings(subject, max_epochs=1, limit_train_batches=1), bare)
    return bare


@check("fast", "speed", "how fast is it, beside a plain loop of the same module?")
def speed_of_a_plain_loop(subject: Subject) -> Verdict:
    """Compare examples per second with the plain loop, and list the time of each part of a step."""
    bare, step = _bare(subject), _step_of(subject, _settings(subject))
    plain = sum(bare.seconds.values())
    parts = ", ".join(f"{part} {1e3 * seconds:.3g}" for part, seconds in bare.seconds.items())
    rate = f"{bare.examples / step:,.0f} examples/s, {plain / step:.2f} of a plain loop"
    silent = min(step, _step_of(subject, _settings(subject), Silent()))
    rest = f"logging {1e3 * (step - silent):.2g}, hooks and loop {1e3 * max(0.0, silent - plain):.2g}"
    found = f"{rate}; ms a step: {parts}, {rest}"
    if plain / step >= 0.7:
        return passed(found)
    return noted(found, "hooks that want each step cost the most; trainer.profiler=simple lists them")


@check("fast", "waits", "does a step wait for the device?")
def steps_do_not_wait(subject: Subject) -> Verdict:
    """Look for .item() and the like in training_step, which synchronize a GPU."""
    if lines := _bare(subject).waits:
        advice = "leave out item(), float(), bool() and print of tensors; self.log takes tensors"
        return noted(f"numbers are read off the device at {', '.join(sorted(lines))}", advice)
    return passed("no number is read off the device")


@check("fast", "memory", "how much memory does it take?")
def memory_at_its_highest(subject: Subject) -> Verdict:
    """Report the peak memory of the process and of the GPU."""
    subject.whole  # noqa: B018 (a training)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    gpu = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU" if torch.cuda.is_available() else ""
    return passed(f"{own / 2**30:.2f} GiB{gpu}")


@check("fast", "help", "what would make it faster?")
def what_would_help(subject: Subject) -> Verdict:
    """Measure the training with one setting changed at a time; batch sizes grow until memory runs out."""
    base, size = _step_of(subject, _settings(subject)), subject.told.data.get("batch_size", 1)
    gains = dict[str, float]()
    for text, settings in _changes(subject).items():
        more = settings.data.get("batch_size", 1) / size
        try:
            gains[text] = more * base / _step_of(subject, settings)
        except (torch.OutOfMemoryError, MemoryError):
            break  # the next one is larger
    return best_of(gains)


def best_of(gains: Mapping[str, float]) -> Verdict:
    """Name the three changes with the highest speed-ups, of those that are worth it."""
    best = sorted((gain, text) for text, gain in gains.items() if gain >= WORTH)[::-1][:3]
    tried = ", ".join(gains) or "nothing"
    if not best:
        return passed(f"none of {tried}")
    return noted(f"tried {tried}", "; ".join(f"{text}: {gain:.2f} times as fast" for gain, text in best))


def _changes(subject: Subject) -> dict[str, schema.Train]:
    """Return changed settings that may be faster, by the override that makes them."""
    told, changes = subject.told, dict[str, schema.Train]()
    base = _settings(subject)

    def with_data(**data: Any) -> schema.Train:
        return base.model_copy(update={"data": base.data | data})

    if told.data.get("loader") == "workers":
        changes["data.loader=memory"] = with_data(loader="memory")
    if "num_workers" in told.data and told.data.get("loader", "workers") == "workers":
        changes["data.num_workers=2"] = with_data(num_workers=2)
    if told.trainer.precision in ("32-true", 32):
        changes["trainer.precision=bf16-mixed"] = _settings(subject, precision="bf16-mixed")
    if told.model.get("channels_last") is False:
        changes["model.channels_last=true"] = base.model_copy(update={"model": base.model | {"channels_last": True}})
    if isinstance(size := told.data.get("batch_size"), int):
        changes |= {f"data.batch_size={more * size}": with_data(batch_size=more * size) for more in (2, 4, 8)}
    return changes
