"""What a sweep varies: the keys that the command line gives several values, and their combinations."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from pydantic import Field

from litlab import schema
from litlab.conditions import Condition, parse
from litlab.errors import UserError
from litlab.schema import Settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Params = dict[str, str]
"""One job's values: text in Hydra's grammar, by the key as it stands on the command line."""


class Dimension(Settings):
    """A key with the values to choose from, or with an interval of numbers."""

    key: str
    """As on the command line."""
    choices: list[str] = Field(default=[])
    """The values in Hydra's grammar; empty for an interval."""
    low: float | int = 0
    high: float | int = 0
    """Both are part of the interval."""
    step: float | int | None = None
    """Distance of the values; null where all are possible."""
    log: bool = False
    """Whether each factor is as likely as another, instead of each distance."""

    @classmethod
    def of(cls, override: Override, in_grid: bool) -> Self:
        """What an override like `a=1,2` or `a=interval(0,1)` says.

        Raises:
            UserError: it cannot be used in a grid, or says nothing.
        """
        key, value = override.get_key_element(), override.value()
        if isinstance(value, IntervalSweep):
            if in_grid:
                raise UserError(
                    f"{override.input_line}: a grid needs single values; sweep=random or sweep=tpe draws them"
                )
            if value.start is None or value.end is None or not value.start < value.end:
                raise UserError(f"{override.input_line}: an interval needs a lower and a higher end")
            return cls(key=key, low=value.start, high=value.end, log="log" in value.tags)
        choices = list(override.sweep_string_iterator())
        if len(set(choices)) < len(choices) or not choices:
            raise UserError(f"{override.input_line}: has {'the same value twice' if choices else 'no value'}")
        if isinstance(value, RangeSweep) and not in_grid:
            numbers = sorted(value.range())
            step = None if "log" in value.tags else value.step
            return cls(key=key, low=numbers[0], high=numbers[-1], step=step, log="log" in value.tags)
        return cls(key=key, choices=choices)

    def distribution(self) -> "BaseDistribution":
        """The same in Optuna's terms.

        Raises:
            UserError: Optuna does not draw from such an interval.
        """
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        try:
            if isinstance(self.low, int) and isinstance(self.high, int):
                return IntDistribution(self.low, self.high, log=self.log, step=int(self.step or 1))
            return FloatDistribution(self.low, self.high, log=self.log, step=self.step)
        except ValueError as error:
            raise UserError(f"{self.key}: {error}") from error

    def suggest(self, trial: "Trial") -> str:
        """The value that Optuna gives the trial, in Hydra's grammar; a second time the same."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return repr(trial.suggest_int(self.key, self.low, self.high, step=int(self.step or 1), log=self.log))
        return repr(trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log))

    def examples(self) -> list[str]:
        """Values that are right only if all are."""
        return self.choices or [repr(self.low), repr(self.high)]

    def __str__(self) -> str:
        if self.choices:
            return f"{self.key}={','.join(self.choices)}"
        step = f" in steps of {self.step}" if self.step not in (None, 1) else ""
        return f"{self.key}: {self.low} to {self.high}{step}{', log' if self.log else ''}"


def grid(dimensions: Sequence[Dimension], settings: schema.Grid) -> list[Params]:
    """The combinations in the command line's order, the first key's values changing slowest.

    Raises:
        UserError: `zip` or `exclude` names what is not there, or leaves nothing.
    """
    by_key = {dimension.key: dimension.choices for dimension in dimensions}
    axes = _axes(by_key, _lists(settings.zip))
    excluded = [parse(text) for text in settings.exclude]
    for condition in itertools.chain(*excluded):
        if condition.key not in by_key:
            raise UserError(f"sweep.exclude: {condition.key} has not several values; there is {', '.join(by_key)}")
    jobs = [dict(itertools.chain(*(values.items() for values in parts))) for parts in itertools.product(*axes)]
    kept = [job for job in jobs if not any(_all_hold(conditions, job) for conditions in excluded)]
    if not kept:
        raise UserError(f"sweep.exclude: leaves none of the {len(jobs)} jobs")
    return [{key: job[key] for key in by_key} for job in kept]


def _lists(zipped: Sequence[Any]) -> list[list[str]]:
    return [list(zipped)] if zipped and isinstance(zipped[0], str) else list(zipped)


def _axes(by_key: Mapping[str, list[str]], zipped: list[list[str]]) -> Iterator[list[dict[str, str]]]:
    """For each key, or keys that are paired, its values."""
    partners = {key: keys for keys in zipped for key in keys}
    for key in partners:
        if key not in by_key:
            raise UserError(f"sweep.zip: {key} has not several values; there is {', '.join(by_key)}")
    done: set[str] = set()
    for key in by_key:
        if key in done:
            continue
        keys = partners.get(key, [key])
        if len({len(by_key[other]) for other in keys}) > 1:
            counts = ", ".join(f"{other} has {len(by_key[other])}" for other in keys)
            raise UserError(f"sweep.zip: pairs as many values of each: {counts}")
        done.update(keys)
        yield [dict(zip(keys, values, strict=True)) for values in zip(*(by_key[other] for other in keys), strict=True)]


def _all_hold(conditions: Sequence[Condition], job: Params) -> bool:
    values = {override.key_or_group: override.value() for override in overrides(job)}
    return all(condition.holds(values) for condition in conditions)


def overrides(params: Params) -> list[Override]:
    """What the command line of this job alone would say."""
    return OverridesParser.create().parse_overrides(texts(params))


def texts(params: Params) -> list[str]:
    """The same as text."""
    return [f"{key}={value}" for key, value in params.items()]
