"""What has become of a sweep's jobs, and which was the best."""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from litlab.comparison.compare import as_page, compare, report
from litlab.comparison.groups import OVER
from litlab.config.compose import read
from litlab.config.marks import is_marked, marked
from litlab.console import say
from litlab.errors import TrainingError
from litlab.files import write_text
from litlab.messages import one_line, shell_quoted, visible
from litlab.runs.run import resume_command, train_command
from litlab.sweeps.outcome import JobResult, best_jobs, by_trial, outcome, record_of, trial_result
from litlab.sweeps.plan import Plan
from litlab.sweeps.space import texts
from litlab.sweeps.study import Study


def conclude(folder: Path, plan: Plan, study: Study, ended: Mapping[int, JobResult], timed_out: bool) -> None:
    """Compare the jobs, keep the best one's config, and say what became of the others.

    Args:
        folder: the sweep's.
        plan: the sweep's.
        study: the sweep's.
        ended: how jobs have ended, by number.
        timed_out: whether jobs may be missing, since there was no time for them.

    Raises:
        TrainingError: a job is not done, though there was time for it.
    """
    found = [ended.get(number) or outcome(folder / str(number), plan.objectives) for number in range(plan.n_jobs)]
    trials = by_trial(found, len(plan.replicates))
    jobs = [job for trial in trials for job in trial]
    _tell_of_others(jobs)
    results = list(map(trial_result, trials))
    best = best_jobs(results, plan.objectives)
    if best:
        metric, mode = next(iter(plan.objectives.items()))
        comparison = compare([folder], metric=metric, mode=mode, over=[*OVER, *plan.sampling.over])
        report(comparison, "table", folder / "pictures")
        if find_spec("plotly") is not None:
            write_text(folder / "report.html", as_page(comparison))
        _tell_of_best(folder, plan, study, {number: results[number] for number in best})
    statuses = Counter(job.status for job in jobs)
    say(f"{_counted(plan.n_jobs)}: {', '.join(f'{count} {status}' for status, count in statuses.items())}")
    say(f"results: {folder}")
    goes_on = resume_command(folder, multirun=True)
    if timed_out and statuses["missing"]:
        say(f"sweep.timeout={plan.sampling.timeout} has passed; the rest is done by: {goes_on}")
    if others := plan.n_jobs - statuses["done"] - statuses["pruned"] - (statuses["missing"] if timed_out else 0):
        to_do = statuses.keys() & {"missing", "interrupted"}
        hint = f"; the rest is done by: {goes_on}" if to_do else ""
        raise TrainingError(f"{others} of {_counted(plan.n_jobs)} {'is' if others == 1 else 'are'} not done{hint}")


def _counted(jobs: int) -> str:
    return f"{jobs} job{'' if jobs == 1 else 's'}"


def _tell_of_others(jobs: Sequence[JobResult]) -> None:
    table = Table("job", "status", Column("reason", overflow="fold"), box=None)
    for number, job in enumerate(jobs):
        if job.status != "done":
            table.add_row(str(number), job.status, Text(visible(job.reason, "\n")))
    if table.row_count:
        Console().print(table)


def _tell_of_best(folder: Path, plan: Plan, study: Study, best: Mapping[int, JobResult]) -> None:
    """Print it, and write its config where `experiment=` takes it from; of several objectives there may be several.

    Of a trial of several jobs the config is its first job's.
    """
    size = len(plan.replicates)
    experiments = folder / "experiment"
    experiments.mkdir(exist_ok=True)
    written = set()
    for trial, result in best.items():
        number = trial * size
        params, told = study.params(trial) | plan.replicates[0], record_of(folder / str(number))
        values = [f"{name} {value:.4g}" for name, value in result.values.items()]
        set_now = texts(params | (told.overrides if told else {}))
        who = f"job {number}" if size == 1 else f"mean of the jobs {number} to {number + size - 1}"
        title = one_line(f"{who}: {', '.join([*values, ' '.join(set_now)])}".removesuffix(", "))
        own = folder / str(number) / "config.yaml"  # a job that was resumed alone may have other settings by now
        config = read(own) if is_marked(own) else plan.config(params)
        file = experiments / f"job_{number}.yaml"
        write_text(file, marked(plan.experiment(params, config, title)))
        written.add(file)
        say(f"best {title}")
        again = "the same" if size == 1 else f"job {number}"
        say(f"  {again} again: {train_command()} {shell_quoted(f'experiment={file}')}")
    for file in set(experiments.glob("job_*.yaml")) - written:
        if is_marked(file):  # of a job that was the best before
            file.unlink()
