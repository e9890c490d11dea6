"""What has become of a sweep's jobs, and which was the best."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table
from rich.text import Text

from litlab.commands.compare import compare, report
from litlab.errors import TrainingError
from litlab.runs.files import write_text
from litlab.runs.run import resume_command, train_command
from litlab.runs.trust import marked
from litlab.sweeps.outcome import Outcome, outcome
from litlab.sweeps.plan import Plan
from litlab.sweeps.space import texts
from litlab.sweeps.study import Study


def conclude(folder: Path, plan: Plan, study: Study, ended: Mapping[int, Outcome]) -> None:
    """Compare the jobs, keep the best one's config, and say what became of the others.

    Raises:
        TrainingError: a job is not done.
    """
    jobs = [ended.get(number) or outcome(folder / str(number), plan.objectives) for number in range(plan.planned)]
    _tell_of_others(jobs)
    best = [trial for trial in study.best() if jobs[trial.number].status == "done"]
    if best:
        metric, mode = next(iter(plan.objectives.items()))
        report(compare([folder], metric=metric, mode=mode), "table", folder / "pictures")
        _tell_of_best(folder, plan, best)
    statuses = Counter(job.status for job in jobs)
    print(f"{_counted(plan.planned)}: {', '.join(f'{count} {status}' for status, count in statuses.items())}")
    print(f"results: {folder}")
    if others := plan.planned - statuses["done"] - statuses["pruned"]:
        to_do = statuses.keys() & {"missing", "interrupted"}
        hint = f"; the rest is done by: {resume_command(folder, multirun=True)}" if to_do else ""
        raise TrainingError(f"{others} of {_counted(plan.planned)} {'is' if others == 1 else 'are'} not done{hint}")


def _counted(jobs: int) -> str:
    return f"{jobs} job{'' if jobs == 1 else 's'}"


def _tell_of_others(jobs: Sequence[Outcome]) -> None:
    table = Table("job", "status", "reason", box=None)
    for number, job in enumerate(jobs):
        if job.status != "done":
            table.add_row(str(number), job.status, Text(job.reason))
    if table.row_count:
        Console().print(table)


def _tell_of_best(folder: Path, plan: Plan, best: Sequence[FrozenTrial]) -> None:
    """Print it, and write its config where `experiment=` takes it from; of several objectives there may be several."""
    for trial in best:
        drawn = {key: value if isinstance(value, str) else repr(value) for key, value in trial.params.items()}
        job = plan.jobs[trial.number] if plan.jobs else drawn
        values = [f"{name} {value:.4g}" for name, value in zip(plan.objectives, trial.values, strict=True)]
        title = f"job {trial.number}: {', '.join([*values, ' '.join(texts(job))])}".removesuffix(", ")
        file = folder / "experiment" / f"job_{trial.number}.yaml"
        file.parent.mkdir(exist_ok=True)
        write_text(file, marked(plan.experiment(job, title)))
        print(f"best {title}\n  the same again: {train_command()} {shlex.quote(f'experiment={file}')}")
