"""What has become of a sweep's jobs, and which was the best."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from litlab.compare import compare, report
from litlab.errors import TrainingError
from litlab.runs.files import write_text
from litlab.runs.run import Record, Run, resume_command
from litlab.sweeps.plan import Plan
from litlab.sweeps.space import texts
from litlab.sweeps.study import Study


def record_of(folder: Path) -> Record | None:
    """What a job's run.json says; None where it has not come so far."""
    return Run.open(folder).record if (folder / "run.json").exists() else None


def story(record: Record | None, error: str | None, plan: Plan) -> str:
    """How a job has ended, in a line."""
    if record is None or record.status not in ("done", "pruned"):
        return f"{record.status if record else 'failed'}: {(record and record.reason) or error}"
    values = {name: record.measured(name) for name in plan.objectives}
    return ", ".join([record.status, *(f"{name} {value:.4g}" for name, value in values.items() if value is not None)])


def conclude(folder: Path, plan: Plan, study: Study) -> None:
    """Compare the jobs, keep the best one's config, and say what became of the others.

    Raises:
        TrainingError: a job is not done.
    """
    trials = study.trials()
    jobs = [_status(folder / str(number), trials[number:][:1]) for number in range(plan.planned)]
    _tell_of_others(jobs)
    if best := study.best():
        metric, mode = next(iter(plan.objectives.items()))
        report(compare([folder], metric=metric, mode=mode), "table", folder / "pictures")
        _tell_of_best(folder, plan, best)
    statuses = Counter(status for status, _ in jobs)
    print(f"{plan.planned} jobs: {', '.join(f'{count} {status}' for status, count in statuses.items())}")
    print(f"results: {folder}")
    if others := plan.planned - statuses["done"] - statuses["pruned"]:
        to_do = statuses.keys() & {"missing", "interrupted"}
        hint = f"; the rest is done by: {resume_command(folder, multirun=True)}" if to_do else ""
        raise TrainingError(f"{others} of {plan.planned} jobs {'is' if others == 1 else 'are'} not done{hint}")


def _status(folder: Path, trial: Sequence[FrozenTrial]) -> tuple[str, str]:
    """A job's status with the reason for it."""
    if record := record_of(folder):
        return record.status, record.reason or ""
    failed = [one.user_attrs.get("reason", "") for one in trial if one.state == TrialState.FAIL]
    return ("failed", failed[0]) if failed else ("missing", "")


def _tell_of_others(jobs: Sequence[tuple[str, str]]) -> None:
    table = Table("job", "status", "reason", box=None)
    for number, (status, reason) in enumerate(jobs):
        if status != "done":
            table.add_row(str(number), status, reason)
    if table.row_count:
        Console().print(table)


def _tell_of_best(folder: Path, plan: Plan, best: Sequence[FrozenTrial]) -> None:
    """Print it, and write its config where `experiment=` takes it from; of several objectives there may be several."""
    for trial in best:
        job = {key: value if isinstance(value, str) else repr(value) for key, value in trial.params.items()}
        values = ", ".join(f"{name} {value:.4g}" for name, value in zip(plan.objectives, trial.values, strict=True))
        title = f"job {trial.number}: {values}, {' '.join(texts(job))}"
        file = folder / "experiment" / f"job_{trial.number}_of_{folder.name}.yaml"
        file.parent.mkdir(exist_ok=True)
        write_text(file, plan.experiment(job, title))
        print(f"best {title}\n  the same again: train experiment={file}")
