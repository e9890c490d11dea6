"""What a sweep varies: the keys that the command line gives several values, and their combinations."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, RangeSweep
from pydantic import Field

from litlab.comparison.filters import Condition, parse
from litlab.config import command_schema
from litlab.config.command_schema import MOST_JOBS
from litlab.config.types import Settings
from litlab.errors import UserError
from litlab.messages import as_override

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Params = dict[str, str]
"""One job's values: text in Hydra's grammar, by the key as it stands on the command line."""

WORD = re.compile(r"(?!(?i:true|false|null|inf|nan)$)[A-Za-z_][\w./-]*")
"""A text that Hydra's grammar reads as that text."""

BATCHES_OR_SHARE = re.compile(r"trainer\.(limit_\w+_batches|val_check_interval|overfit_batches)")
"""Keys of which a whole number is a number of batches, and a fraction a share of them all."""


class Dimension(Settings):
    """A key with the values to choose from, or with an interval of numbers."""

    key: str
    """The key, as it is written on the command line."""
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
        choices = list(itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1))
        if len(choices) > MOST_JOBS:
            hint = "sweep=random draws from interval(…)"
            raise UserError(f"{override.input_line}: has more than {MOST_JOBS:,} values; {hint}")
        if len(set(choices)) < len(choices) or not choices:
            raise UserError(f"{override.input_line}: has {'the same value twice' if choices else 'no value'}")
        if isinstance(value, RangeSweep) and not in_grid:
            numbers = sorted(value.range())
            step = None if "log" in value.tags else value.step
            return cls(key=key, low=numbers[0], high=numbers[-1], step=step, log="log" in value.tags)
        return cls(key=key, choices=choices)

    @property
    def name(self) -> str:
        """The key in the config."""
        return self.key.lstrip("+")

    def ambiguity(self) -> str | None:
        """A warning if 1 among the values, which is one batch, stands beside shares, of which 1.0 is the largest."""
        shares = [text for text in self.choices if re.fullmatch(r"0?\.\d+|\d\.?\d*e-\d+", text)]
        if not (shares and "1" in self.choices and BATCHES_OR_SHARE.fullmatch(self.name)):
            return None
        return f"{self.key}={','.join(self.choices)}: {shares[0]} is a share, but 1 is a single batch; 1.0 is the whole"

    def distribution(self) -> "BaseDistribution":
        """Return the values or the interval as a distribution of Optuna's.

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
        except (ValueError, OverflowError) as error:
            raise UserError(f"{self.key}: {error}") from error

    def scale(self) -> "BaseDistribution":
        """What a grid's values lie on; numbers where all are, as Optuna keeps the list of others with each trial."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        with suppress(ValueError):
            whole = list(map(int, self.choices))
            return IntDistribution(min(whole), max(whole))
        with suppress(ValueError):
            numbers = list(map(float, self.choices))
            if all(map(math.isfinite, numbers)):
                return FloatDistribution(min(numbers), max(numbers))
        return CategoricalDistribution(self.choices)

    def suggest(self, trial: "Trial") -> str:
        """The value that Optuna gives the trial, in Hydra's grammar; a second time the same."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return repr(trial.suggest_int(self.key, self.low, self.high, step=int(self.step or 1), log=self.log))
        return repr(trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log))

    def text_of(self, value: Any) -> str:
        """Return a plain value in Hydra's grammar, as a job's parameters have it.

        Raises:
            UserError: it is not one of the choices, or not in the interval.
        """
        equal = [text for text in self.choices if value in (text, overrides({self.key: text})[0].value())]
        if equal:
            return equal[0]
        is_whole = isinstance(self.low, int) and isinstance(self.high, int)
        is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
        if self.choices or not is_number or not self.low <= value <= self.high or not self._is_on_grid(value):
            raise UserError(f"sweep.first: {self.name}={value} is not among {self}")
        return repr(value if is_whole else float(value))

    def _is_on_grid(self, value: float) -> bool:
        """Whether a number lies a whole number of steps above the lower end."""
        steps = (value - self.low) / (self.step or 1)
        return self.step is None or math.isclose(steps, round(steps), abs_tol=1e-9)

    def examples(self) -> list[str]:
        """Values that are right only if all are."""
        return self.choices or [repr(self.low), repr(self.high)]

    def __str__(self) -> str:
        if self.choices:
            return f"{self.key}={','.join(self.choices)}"
        step = f" in steps of {self.step}" if self.step not in (None, 1) else ""
        return f"{self.key}: {self.low} to {self.high}{step}{', log' if self.log else ''}"


def first_jobs(dimensions: Sequence[Dimension], told: Sequence[Mapping[str, Any]]) -> list[Params]:
    """What was told of the jobs that come first, as their parameters.

    Raises:
        UserError: the sweep does not vary that, or not so.
    """
    by_name = {dimension.name: dimension for dimension in dimensions}
    if unknown := next((key for job in told for key in job if key not in by_name), None):
        raise UserError(f"sweep.first: {unknown} has not several values; there is {', '.join(by_name)}")
    return [{by_name[key].key: by_name[key].text_of(value) for key, value in job.items()} for job in told]


def grid(dimensions: Sequence[Dimension], settings: command_schema.Grid) -> list[Params]:
    """The combinations in the command line's order, the first key's values changing slowest.

    Raises:
        UserError: `zip` or `exclude` names what is not there, or leaves nothing.
    """
    by_name = {dimension.name: dimension for dimension in dimensions}
    excluded = [parse(text) for text in settings.exclude]
    for condition in itertools.chain(*excluded):
        if condition.key not in by_name:
            raise UserError(f"sweep.exclude: {condition.key} has not several values; there is {', '.join(by_name)}")
    axes = list(_axes(by_name, _lists(settings.zip)))
    if (count := math.prod(map(len, axes))) > MOST_JOBS:
        hint = "sweep=random sweep.n_trials=N does N of them by chance"
        raise UserError(f"{count:,} jobs are more than a grid may have, which is {MOST_JOBS:,}; {hint}")
    jobs = [dict(itertools.chain(*(values.items() for values in parts))) for parts in itertools.product(*axes)]
    kept = [job for job in jobs if not any(_all_hold(conditions, job) for conditions in excluded)]
    if not kept:
        raise UserError(f"sweep.exclude: leaves none of the {len(jobs)} jobs")
    return [{dimension.key: job[dimension.key] for dimension in dimensions} for job in kept]


def _lists(zipped: Sequence[Any]) -> list[list[str]]:
    return [list(zipped)] if zipped and isinstance(zipped[0], str) else list(zipped)


def _axes(by_name: Mapping[str, Dimension], zipped: list[list[str]]) -> Iterator[list[Params]]:
    """For each key, or keys that are paired, its values."""
    partners: dict[str, list[str]] = {}
    for names in zipped:
        for name in names:
            if name not in by_name:
                raise UserError(f"sweep.zip: {name} has not several values; there is {', '.join(by_name)}")
            if partners.setdefault(name, names) is not names:
                raise UserError(f"sweep.zip: {name} is in two lists; pair all its partners in one")
    done: set[str] = set()
    for name in by_name:
        if name in done:
            continue
        paired = [by_name[partner] for partner in partners.get(name, [name])]
        if len({len(dimension.choices) for dimension in paired}) > 1:
            counts = ", ".join(f"{dimension.name} has {len(dimension.choices)}" for dimension in paired)
            raise UserError(f"sweep.zip: pairs as many values of each: {counts}")
        done.update(dimension.name for dimension in paired)
        keys = [dimension.key for dimension in paired]
        values = zip(*(dimension.choices for dimension in paired), strict=True)
        yield [dict(zip(keys, texts_of_one, strict=True)) for texts_of_one in values]


def _all_hold(conditions: Sequence[Condition], job: Params) -> bool:
    values = {override.key_or_group: override.value() for override in overrides(job)}
    return all(condition.holds(values) for condition in conditions)


def value_of(text: str, distribution: "BaseDistribution") -> str | float:
    """What Optuna is told of a value in Hydra's grammar.

    Raises:
        ValueError: it is not of that kind.
    """
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(distribution, IntDistribution):
        return int(text)
    return float(text) if isinstance(distribution, FloatDistribution) else text


def override_value(value: bool | float | str) -> str:
    """Write a value in Hydra's grammar; a text that Hydra could read as something else is quoted."""
    if not isinstance(value, str) or WORD.fullmatch(value):
        return as_override(value)
    return QuotedString(value, Quote.double).with_quotes()


def overrides(params: Params) -> list[Override]:
    """What the command line of this job alone would say."""
    return OverridesParser.create().parse_overrides(texts(params))


def texts(params: Params) -> list[str]:
    """Return a job's parameters as overrides."""
    return [f"{key}={value}" for key, value in params.items()]
