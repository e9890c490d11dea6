"""What may be set, and to what: the lab's own settings.

The values themselves are in `configs/`, so that each has one home. Only settings that came later have a default here,
for the runs that were made before.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, PositiveFloat
from pydantic import model_validator as cross_check

from litlab.config.types import (
    AbsolutePath,
    Component,
    Devices,
    Duration,
    Fraction,
    Name,
    NonNegativeInt,
    OptionalComponent,
    PositiveFraction,
    PositiveInt,
    Precision,
    Seed,
    Settings,
    or_default,
)


class Paths(Settings):
    """Where things are."""

    root: str
    """Folder that the others are in: the project's, or the working directory where the project is not checked out."""
    data: str
    """Folder of the datasets."""
    logs: str
    """Folder of everything that runs leave behind."""


class Checkpoint(Settings):
    """Which weights are kept, besides the last."""

    monitor: str | None
    """Validation metric whose best value marks the best weights; null where there is no validation."""
    mode: Literal["min", "max"] | None
    """Whether the best value is the smallest or the largest; null only where nothing is monitored."""
    every_n_steps: PositiveInt | None
    """Optimizer steps after which the state of the training is saved, so that no more can be lost; null for none."""
    every_minutes: PositiveFloat | None
    """Minutes after which it is saved; null for none. It always is before a validation and at the end of an epoch."""

    @cross_check(mode="after")
    def _direction_is_known(self) -> Self:
        if self.monitor is not None and self.mode is None:
            hint = "add checkpoint.mode=min or checkpoint.mode=max"
            raise ValueError(f"checkpoint.monitor={self.monitor}: needs its direction; {hint}")
        return self


class Trainer(Settings):
    """Arguments of Lightning's Trainer, by Lightning's names, and of litlab.engine.

    Those that are not named here are Lightning's own, with its values and defaults.
    """

    model_config = ConfigDict(extra="allow")

    accelerator: Annotated[
        Literal["auto", "cpu", "gpu", "mps"], BeforeValidator(lambda given: "gpu" if given == "cuda" else given)
    ]
    """Kind of device; auto takes a GPU where there is one."""
    devices: Devices
    """How many train together, each in a process; -1 for all GPUs, [i, …] for those, auto for all GPUs or one CPU."""
    precision: Precision
    """Number format of the computation; auto is 32-true, or bf16-mixed for convolutions on a CPU made for it."""
    steps_per_execution: PositiveInt
    """Steps at a time, unless a callback or module wants each; above 1, a GPU captures a step as a CUDA graph."""
    max_epochs: Annotated[Literal[-1] | PositiveInt, or_default(-1)]
    """Passes over the training data; -1 for no limit."""
    max_steps: Literal[-1] | PositiveInt
    """Optimizer steps after which training ends in any case; -1 for no limit."""
    max_time: Duration | None
    """Time after which training ends in any case, as DD:HH:MM:SS."""
    limit_train_batches: Annotated[PositiveInt | PositiveFraction, or_default(1.0)]
    """Batches (int) or share (float) of an epoch's training data to use."""
    limit_val_batches: Annotated[NonNegativeInt | Fraction, or_default(1.0)]
    """Batches (int) or share (float) of the validation data to use."""
    limit_test_batches: Annotated[PositiveInt | PositiveFraction, or_default(1.0)]
    """Batches (int) or share (float) of the test data to use."""
    val_check_interval: Annotated[PositiveInt | PositiveFraction | Duration, or_default(1.0)]
    """Steps (int), share of an epoch (float) or time (DD:HH:MM:SS) between validations."""
    check_val_every_n_epoch: PositiveInt | None
    """Epochs between validations; null counts the steps of val_check_interval over the ends of epochs."""
    num_sanity_val_steps: Annotated[Literal[-1] | NonNegativeInt, or_default(2)]
    """Validation batches run before training starts, so that an error there shows at once."""
    log_every_n_steps: Annotated[PositiveInt, or_default(50)]
    """Steps between two points of a curve."""
    gradient_clip_val: Annotated[PositiveFloat | None, BeforeValidator(lambda given: given or None)]
    """Largest norm or value of the gradient; null does not clip."""
    gradient_clip_algorithm: Annotated[Literal["norm", "value"], or_default("norm")]
    """What gradient_clip_val limits."""
    accumulate_grad_batches: PositiveInt
    """Batches whose gradients are added up for one optimizer step."""
    deterministic: Annotated[bool | Literal["warn"], or_default(False)]
    """Whether only deterministic algorithms may run; the CPU needs no such rule."""
    detect_anomaly: bool
    """Whether autograd looks for the operation that made a NaN; slow."""
    on_nan: Literal["stop", "skip"]
    """What a loss that is not a number does: stop the training, or drop the batch."""
    compile: bool | dict[str, Any] = False
    """Whether torch.compile compiles the module, or with which of its arguments, such as {mode: max-autotune}."""
    profiler: Literal["simple", "advanced", "pytorch"] | Component | None
    """Lightning profiler whose report is written into the run's folder when training ends."""

    @property
    def others(self) -> dict[str, Any]:
        """The arguments that are not named above."""
        return dict(self.model_extra or {})

    @cross_check(mode="after")
    def _devices_are_there(self) -> Self:
        if isinstance(self.devices, list) and self.accelerator == "cpu":
            raise ValueError(
                "trainer.devices as a list names a GPU, but trainer.accelerator is cpu: set trainer.devices=1"
            )
        if self.devices == -1 and self.accelerator == "cpu":
            raise ValueError(
                "trainer.devices=-1 means all GPUs, but trainer.accelerator is cpu: say how many processes"
            )
        return self

    @cross_check(mode="after")
    def _validation_goes_by_steps(self) -> Self:
        if self.check_val_every_n_epoch is None and isinstance(self.val_check_interval, float):
            hint = "set trainer.val_check_interval to a number of steps"
            raise ValueError(f"trainer.check_val_every_n_epoch=null: validates after so many steps; {hint}")
        return self

    @cross_check(mode="after")
    def _training_ends(self) -> Self:
        if self.max_epochs == -1 and self.max_steps == -1 and self.max_time is None:
            raise ValueError("training would never end: set trainer.max_epochs, trainer.max_steps or trainer.max_time")
        return self


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """All single values inside a setting, with their keys."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, f"{key}.{name}")
    else:
        yield key, value


class Init(Settings):
    """The weights that a new run starts with, and which of them stay as they are."""

    from_: AbsolutePath | None = Field(default=None, alias="from")
    """A run's folder, a checkpoint or a .safetensors file; null for fresh weights."""
    rename: dict[str, str] = Field(default={})
    """Beginnings of the names of weights in that file, and what they are called in the module."""
    skip: list[str] = Field(default=[])
    """Patterns of names, after renaming, that are not loaded, such as net.head or '*.bias'."""
    freeze: list[str] = Field(default=[])
    """Patterns of the module's parameters that are not trained."""
    unfreeze_at: PositiveInt | None = None
    """Epoch, from 0, from which on they are trained, too; null for never."""

    @cross_check(mode="after")
    def _nothing_is_without_effect(self) -> Self:
        if self.from_ is None and (self.rename or self.skip):
            raise ValueError("init.rename and init.skip say how init.from is loaded: set it, too")
        if self.unfreeze_at is not None and not self.freeze:
            raise ValueError("init.unfreeze_at: nothing is frozen; set init.freeze, too")
        return self


class Train(Settings):
    """Everything that makes a run."""

    seed: Seed
    """Seed of the initial weights and of the order of the batches."""
    test: bool
    """Whether the best weights are tested at the end."""
    name: Name | None = None
    """Name of the run, which its folder ends with; null for none. `run=NAME` finds the newest of that name."""
    tags: list[Name] = Field(default=[])
    """Words to find the run by: compare where='"WORD" in tags'."""
    notes: str | None = None
    """What there is to remember about the run."""
    choices: dict[str, str | list[str]] = Field(default={})
    """The options that were chosen of the groups; filled in by the lab."""
    checkpoint: Checkpoint
    """Which weights are kept, and how often the state of the training is."""
    paths: Paths
    """Where things are."""
    data: Component
    """The LightningDataModule."""
    model: Component
    """The LightningModule; it is also given the optimizer, the schedule and the augmentation, if there are any."""
    init: Init = Init()
    """The weights that a new run starts with, and which of them stay as they are."""
    augment: OptionalComponent
    """What is done to a batch of training images on the device. Empty for nothing."""
    optimizer: OptionalComponent
    """The optimizer; it is also given the parameters. Empty where the LightningModule makes its own."""
    scheduler: OptionalComponent
    """The learning-rate schedule, and when it is stepped; it is also given the optimizer. Empty for none."""
    trainer: Trainer
    """Lightning's Trainer, and how it does its steps."""
    callbacks: dict[str, Component]
    """Lightning callbacks besides those that every run has, each under a name of its own."""
    logger: dict[str, Component]
    """Lightning loggers, each under a name of its own; they are also given the run's folder. Empty for none."""
    views: dict[str, Component]
    """Callbacks that draw into TensorBoard, each under a name of its own. Empty for none."""

    @cross_check(mode="after")
    def _directions_agree(self) -> Self:
        """Refuse a class that minimizes the monitored metric by default where the config maximizes it."""
        if self.checkpoint.mode != "max":
            return self
        nodes = {f"callbacks.{key}": node for key, node in self.callbacks.items()} | {"scheduler": self.scheduler or {}}
        for key, node in nodes.items():
            is_frameworks = str(node.get("_target_")).startswith(("lightning.", "torch."))
            if is_frameworks and node.get("monitor") == self.checkpoint.monitor and "mode" not in node:
                name = node["_target_"].rpartition(".")[2]
                problem = f"{name} minimizes it by default, but checkpoint.mode is max"
                raise ValueError(f"{key}.monitor={node['monitor']}: {problem}; add +{key}.mode=max")
        return self

    @cross_check(mode="after")
    def _loggers_are_told_no_secrets(self) -> Self:
        """Refuse a key or password, such as one that an interpolation reads from the environment."""
        for key, value in _leaves(self.logger, "logger"):
            named_so = re.search(r"(api_?|access_?)key|token|password|secret", key.rpartition(".")[2], re.IGNORECASE)
            if (named_so and value) or re.search(r"://[^/@:]*:[^/@]+@", str(value)):
                hint = "leave it out; trackers read it from the environment, or from their own login"
                raise ValueError(f"{key}: a secret would be written into the run's folder; {hint}")
        return self

    @cross_check(mode="after")
    def _there_is_a_test_set(self) -> Self:
        if self.test and self.data.get("test_fraction") == 0:
            raise ValueError("data.test_fraction=0: leaves nothing to test the best weights on; set test=false")
        return self

    @cross_check(mode="after")
    def _schedule_has_an_end(self) -> Self:
        is_the_labs = bool(self.scheduler) and str((self.scheduler or {})["_target_"]).startswith("litlab.schedulers.")
        if is_the_labs and self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            raise ValueError("scheduler needs to know the number of steps: set trainer.max_epochs or trainer.max_steps")
        return self
