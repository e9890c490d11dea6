"""A single run as a launcher's job."""

from contextlib import closing

from litlab.console import say
from litlab.distributed.signals import Interrupted
from litlab.errors import TrainingError
from litlab.runs.run import resume_command
from litlab.sweeps.job import Job
from litlab.sweeps.launchers.base import Launcher
from litlab.sweeps.outcome import settled_result


def run_single(job: Job, launcher: Launcher) -> None:
    """Let the launcher do the job, and wait for it.

    Raises:
        TrainingError: it has not come to its end.
        Interrupted: a signal asked to stop; so does the job.
    """
    say(f"folder     {job.folder}, what it says is in train.log")
    hint = f"go on with: {resume_command(job.folder)}"
    try:
        with closing(launcher.run(iter([job]))) as jobs_ended:  # type: ignore[type-var]
            (ended,) = jobs_ended
    except Interrupted:
        begun = (job.folder / "run.json").exists()
        say(hint if begun else "the run had not begun")
        raise
    found = settled_result(ended, ())
    if found.status != "done":
        raise TrainingError(f"{found}; {hint}" if found.status == "interrupted" else str(found))
    say(f"results: {job.folder}")
