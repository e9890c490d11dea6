"""All that a sweep is, composed, checked and fixed before its first job: `plan.json` in its folder."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self
from uuid import uuid4

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, ValidationError

from litlab.config import command_schema, schema
from litlab.config.compose import check, config_text, parse, replace_components, without
from litlab.config.explain import explain
from litlab.config.marks import marked, unmarked
from litlab.config.types import Settings
from litlab.config.validate import MOST_PROBLEMS
from litlab.console import say
from litlab.errors import UserError
from litlab.files import LARGEST_PLAN, read_text, write_text
from litlab.messages import first_lines, first_problem, visible
from litlab.sweeps.bases import OBJECTIVES, Base, Objectives, compose_bases, objectives_of
from litlab.sweeps.space import Dimension, Params, first_jobs, grid, override_value, overrides, texts

FILE = "plan.json"

CHANGEABLE = ("n_trials", "storage", "on_error", "timeout", "dry_run")
"""What of the sweep's settings may be told anew when it goes on."""

NUMBER = re.compile(r"=[-+]?[\d.]+(e[-+]?\d+)?$")


class Plan(Settings):
    """What each job's config is made from."""

    dimensions: list[Dimension]
    """The swept keys with their values or distributions."""
    bases: Annotated[list[Base], Field(min_length=1)]
    """One for each combination of options."""
    sampling: Annotated[command_schema.Grid | command_schema.Sampled, Field(discriminator="sampler")]
    """What chooses the jobs."""
    objectives: Objectives
    """Metrics by which the jobs are compared, and which values are the better ones."""
    jobs: list[Params]
    """The trials of a grid, in order; otherwise none."""
    planned: int
    """Number of trials; a trial has one job for each of `replicates`."""
    study: str
    """Name of Optuna's study in a database, which others may share."""

    @classmethod
    def make(cls, settings: command_schema.SweepCommand, loader: ConfigLoader, arguments: Sequence[str]) -> Self:
        """Compose what the command line asks for, and check every job.

        Raises:
            UserError: a job's config is wrong, or the sweep itself.
        """
        sampling = settings.sweep
        parsed = OverridesParser.create(loader).parse_overrides(list(arguments))
        given = {override.get_key_element(): override for override in parsed}  # the later of two counts
        for key in [key for key in given if key.partition(".")[0] in ("sweep", "launcher", "resume")]:
            if given.pop(key).is_sweep_override():
                raise UserError(f"{key}: takes one value")
        varied = [override for override in given.values() if override.is_sweep_override()]
        fixed = [str(override.input_line) for override in given.values() if not override.is_sweep_override()]
        told = {override.key_or_group.partition(".")[0] for override in given.values()}
        if twice := sampling.over.keys() & {override.key_or_group for override in given.values()}:
            raise UserError(f"sweep.over: {min(twice)} has values of its own; leave out one of the two")
        if "test" not in told:
            fixed.append("test=false")  # a sweep that looks at the test set has chosen by it
        if "views" not in told:
            fixed.append("views=none")  # a hundred jobs' pictures are more than anybody looks at
        dimensions = [Dimension.of(override, isinstance(sampling, command_schema.Grid)) for override in varied]
        for line in filter(None, map(Dimension.ambiguity, dimensions)):
            say(line)
        bases = list(compose_bases(loader, fixed, varied, dimensions))
        jobs = grid(dimensions, sampling) if isinstance(sampling, command_schema.Grid) else []
        plan = cls(
            dimensions=dimensions,
            bases=bases,
            sampling=sampling,
            objectives=objectives_of(sampling, bases[0]),
            jobs=jobs,
            planned=len(jobs) if isinstance(sampling, command_schema.Grid) else sampling.n_trials,
            study=f"sweep-{uuid4()}",
        )
        if len(plan._text()) > LARGEST_PLAN:
            raise UserError(f"{plan.planned:,} jobs with so many values make too large a {FILE}: make several sweeps")
        if plan.n_jobs > command_schema.MOST_JOBS:
            raise UserError(f"sweep.over: makes {plan.n_jobs:,} jobs; a sweep has at most {command_schema.MOST_JOBS:,}")
        plan._check()
        return plan

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The plan in a sweep's folder.

        Raises:
            UserError: there is none, or it is damaged: its parts, or a job's config, are not those of one sweep.
        """
        file = folder / FILE
        try:
            plan = cls.model_validate_json(unmarked(read_text(file, LARGEST_PLAN)))
            plan._require_consistency()
        except (UserError, HydraException) as error:
            raise UserError(f"{file} is damaged: {first_lines(error)}") from error
        except ValidationError as error:
            raise UserError(f"{file} is damaged: {first_problem(error)}") from error
        except (ValueError, OSError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        return plan

    def save(self, folder: Path) -> None:
        """Write it there, marked as the user's own."""
        write_text(folder / FILE, marked(self._text()))

    @cached_property
    def replicates(self) -> list[Params]:
        """The values that the jobs of a trial differ in, by `sweep.over`; a single {} without it."""
        told = self.sampling.over
        values = [
            map(override_value, range(several) if isinstance(several, int) else several) for several in told.values()
        ]
        return [dict(zip(told, chosen, strict=True)) for chosen in product(*values)]

    @property
    def n_jobs(self) -> int:
        """Number of jobs; those of the first trial come first."""
        several = self.sampling.over.values()
        return self.planned * math.prod(count if isinstance(count, int) else len(count) for count in several)

    def changed(self, sampling: Mapping[str, Any]) -> Self:
        """Return this plan with other settings of the sampler."""
        changed = self.sampling.model_copy(update=dict(sampling))
        planned = changed.n_trials if isinstance(changed, command_schema.Sampled) else self.planned
        return self.model_copy(update={"sampling": changed, "planned": planned})

    def definition(self) -> dict[str, Any]:
        """What must be the same for a sweep to be the same one."""
        return self.model_dump(exclude={"study": True, "planned": True, "sampling": set(CHANGEABLE)})

    def config(self, job: Params) -> DictConfig:
        """The config of the run that has these values.

        Raises:
            HydraException: a key does not exist.
        """
        composed = deepcopy(self._composed[self.bases.index(self.base(job))])
        values = [override for override in overrides(job) if override.get_key_element() not in self.bases[0].choices]
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)  # as composing does, without reading files again
        replace_components(composed, values)
        return composed

    def first_jobs(self) -> list[Params]:
        """The parameters that `sweep.first` fixes, of the jobs that come first; the sampler chooses the others.

        Raises:
            UserError: the sweep does not vary such a key, or not over such a value.
        """
        fixed = self.sampling.first if isinstance(self.sampling, command_schema.Sampled) else []
        return first_jobs(self.dimensions, fixed)

    def base(self, job: Params) -> Base:
        """What this job has in common with others.

        Raises:
            UserError: the plan is damaged.
        """
        found = next((base for base in self.bases if base.choices.items() <= job.items()), None)
        if found is None:
            raise UserError(f"{FILE} is damaged: it has no base for {' '.join(texts(job))}")
        return found

    def experiment(self, job: Params, config: DictConfig, title: str) -> str:
        """The config that a job has by now, as a file of configs/experiment."""
        # Nothing is taken from the groups' files, with which what this config has deleted would come back.
        kept = ("experiment", "debug", "paths", "sweep", "launcher", "views", "hydra")
        defaults = [{f"override /{group}": None} for group in self.base(job).groups if group not in kept]
        settings = OmegaConf.to_yaml(without(config, {"paths", "test", "views", "choices"}))
        return f"# @package _global_\n# {title}\n{yaml.safe_dump({'defaults': defaults}, sort_keys=False)}\n{settings}"

    def listing(self) -> str:
        """The jobs, or what they are drawn from."""
        if isinstance(self.sampling, command_schema.Grid):
            lines = [f"{number}: {' '.join(texts(job))}" for number, job in enumerate(self._with_replicates(self.jobs))]
        else:
            lines = [f"drawn by {self.sampling.sampler} from", *(f"  {dimension}" for dimension in self.dimensions)]
            if len(self.replicates) > 1:
                lines += ["each with", *(f"  {' '.join(texts(one))}" for one in self.replicates)]
        return "\n".join([*map(visible, lines), f"{self.n_jobs} {'job' if self.n_jobs == 1 else 'jobs'}"])

    def _with_replicates(self, trials: Iterable[Params]) -> Iterator[Params]:
        return (trial | one for trial in trials for one in self.replicates)

    def _text(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    @cached_property
    def _composed(self) -> list[DictConfig]:
        configs = [parse(base.config, "the config") for base in self.bases]
        for config in configs:
            OmegaConf.set_struct(config, True)
        return configs

    def _require_consistency(self) -> None:
        """Make sure that what a plan says twice, in its file, is the same; see `make`."""
        keys = [dimension.key for dimension in self.dimensions]
        in_grid = isinstance(self.sampling, command_schema.Grid)
        for dimension in self.dimensions:
            dimension.distribution()
        facts = {
            "dimensions": len(set(keys)) == len(keys)
            and not (in_grid and not all(one.choices for one in self.dimensions)),
            "jobs": self.jobs
            == (grid(self.dimensions, self.sampling) if isinstance(self.sampling, command_schema.Grid) else []),
            "planned": self.planned
            == (self.sampling.n_trials if isinstance(self.sampling, command_schema.Sampled) else len(self.jobs)),
            "objectives": self.objectives and self.sampling.objectives in (None, self.objectives),
            "bases": all(base.choices.keys() == self.bases[0].choices.keys() <= set(keys) for base in self.bases),
        }
        if wrong := next((name for name, holds in facts.items() if not holds), None):
            raise UserError(f"{wrong}: does not fit the rest")
        for base, end in product(self.bases, (0, -1)):
            check(self.config(self._example(base, end) | self.replicates[end]), schema.Train)

    def _check(self) -> None:
        """Check each job of a grid; of what is drawn, each value and both ends of each interval."""
        self.first_jobs()
        wrong: dict[str, list[int]] = {}
        written: set[str] = set()  # a number is read back as it was; each other value is tried once
        for number, job in enumerate(self._with_replicates(self.jobs or self._examples())):
            try:
                config = self.config(job)
                self._require_same_metric(check(config, schema.Train).checkpoint)
                new = {text for text in texts(job) if not NUMBER.search(text)} - written
                if new or number == 0:
                    config_text(config)
                    written |= new
            except (HydraException, UserError) as error:
                told = str(error) if isinstance(error, UserError) else explain(error)
                for line in told.splitlines():
                    wrong.setdefault(line, []).append(number)
            if len(wrong) >= MOST_PROBLEMS:
                break
        if wrong:
            raise UserError(*(line + (_where(numbers) if self.jobs else "") for line, numbers in wrong.items()))

    def _require_same_metric(self, own: schema.Checkpoint) -> None:
        if not self.sampling.objectives and {own.monitor: own.mode} != self.objectives:
            other = f"checkpoint.monitor={own.monitor} checkpoint.mode={own.mode}"
            raise UserError(f"{other}: jobs that go by different metrics need {OBJECTIVES}")

    def _example(self, base: Base, index: int) -> Params:
        return {dimension.key: dimension.examples()[index] for dimension in self.dimensions} | base.choices

    def _examples(self) -> Iterator[Params]:
        for base in self.bases:
            first = self._example(base, 0)
            yield first
            for dimension in self.dimensions:
                dimension.distribution()  # which Optuna may refuse
                if dimension.key not in base.choices:
                    yield from (first | {dimension.key: value} for value in dimension.examples()[1:])


def _where(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:3]))
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return f" (job{'s' if len(numbers) > 1 else ''} {shown}{more})"
