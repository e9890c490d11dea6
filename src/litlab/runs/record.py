"""What run.json says."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    model_validator,
)

from litlab.config.types import SplitName

CheckpointName = Literal["best", "last"]

Status = Literal["running", "done", "pruned", "failed", "interrupted"]


def _inside(path: str) -> str:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"{path} leads out of the run's folder")
    return path


RENAMED = {"images_per_second": "examples_per_second"}
"""Names in the records of runs that are older than the names."""


def current_name(name: str) -> str:
    """What a result is called now that may have had another name."""
    return RENAMED.get(name, name)


LARGEST = 1e150
"""Numbers beyond cannot be compared: their squares overflow."""


def _require_ordinary(values: Any) -> Any:
    """Refuse integers with which one cannot compute, wherever they are."""
    if isinstance(values, int) and abs(values) > LARGEST:
        raise ValueError("a number is too large")
    for inner in values.values() if isinstance(values, dict) else values if isinstance(values, list) else ():
        _require_ordinary(inner)
    return values


def _by_current_names(values: Any) -> Any:
    return {current_name(name): value for name, value in values.items()} if isinstance(values, dict) else values


class Part(BaseModel):
    """Base of what `run.json` holds."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Git(Part):
    """The state of the source code."""

    commit: str
    dirty: bool
    """Whether files differed from the commit."""


class Validation(Part):
    """What one validation measured, by the names it was logged under."""

    epoch: int
    """From 0."""
    step: int
    """Optimizer steps done."""
    metrics: dict[str, float]


class Metrics(Part):
    """What was measured, by the names it was logged under."""

    monitor: str | None = None
    """The metric that says which epoch is best."""
    last: Annotated[dict[str, float], BeforeValidator(_by_current_names)] = {}
    """When training ended; of `train/…`, the last step's."""
    best: dict[str, float] = {}
    """When `monitor` was best."""
    best_epoch: int | None = None
    """The epoch of that, from 0."""
    validations: list[Validation] = []
    """All of them, in order; none where nothing is monitored."""
    test: dict[str, float] = {}
    """Of the best weights, on the test set; of an evaluation, on the split that it was asked for."""
    test_by_class: dict[str, float] = {}
    """Share of each class's test images that were recognised."""


class Resumption(Part):
    """When the run went on after it was stopped, and from where."""

    at: AwareDatetime
    step: int
    """Optimizer steps done."""


class WeightsFile(Part):
    """A file that a run's first weights come from."""

    file: str
    sha256: str


class Record(Part):
    """What `run.json` says."""

    command: str
    status: Status = "running"
    reason: str | None = None
    """Why the run failed, was pruned or stopped early, or what interrupted it."""
    started: AwareDatetime
    resumed: list[Resumption] = []
    ended: AwareDatetime | None = None
    seed: int
    overrides: dict[str, str] = {}
    """What was set for this run alone, by the command line or the sweep, as it was written there."""
    settings: dict[str, Any] = {}
    """Of a training: its config, with all that it refers to."""
    began_from: WeightsFile | None = None
    """What `init.from` led to."""
    device: str | None = None
    precision: str | None = None
    """Number format of the computation, by Lightning's name."""
    training_seconds: float | None = None
    """From the first step to the last, without validation and test."""
    examples_per_second: float | None = None
    """In that time."""
    cuda_graph: str | None = None
    """How many steps were done by a CUDA graph and how many of these were checked, or why none was; None on a CPU."""
    skipped_batches: int = 0
    """Dropped by trainer.on_nan=skip."""
    metrics: Metrics = Metrics()
    checkpoints: dict[CheckpointName, Annotated[str, AfterValidator(_inside)]] = {}
    """Paths inside the run's folder."""
    evaluated: str | None = None
    """The checkpoint that `evaluate` took."""
    evaluated_split: SplitName | None = None
    """The part of the data that it took."""
    git: Git | None = None
    """None where the source is not in a git repository."""
    python: str
    versions: dict[str, str]

    _renames = model_validator(mode="before")(_by_current_names)
    _ordinary = model_validator(mode="before")(_require_ordinary)

    def origin(self) -> dict[str, Any]:
        """How the run came about: its command, commit, start, device and versions."""
        commit = self.git.commit + (", with changes" if self.git.dirty else "") if self.git else "not in a repository"
        started = f"{self.started:%Y-%m-%d %H:%M:%S} UTC"
        return {"command": self.command, "commit": commit, "started": started, "device": self.device, **self.versions}

    def results(self) -> dict[str, float]:
        """Everything measured: when the monitored metric was best, else on the test set, else at the end; the speed."""
        speed = {"training_seconds": self.training_seconds, "examples_per_second": self.examples_per_second}
        known = {name: value for name, value in speed.items() if value is not None}
        return known | self.metrics.last | self.metrics.test | self.metrics.best

    def measured(self, name: str) -> float | None:
        """What was measured by that name; None if it is not there, or neither finite nor comparable."""
        value = self.results().get(current_name(name))
        return value if value is not None and abs(value) <= LARGEST else None
