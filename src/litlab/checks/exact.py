"""Checks of exactness: do repeated, resumed and parallel trainings end in the same state?"""

import torch

from litlab.checks.subject import BATCHES, Subject, difference, final, measured, only_loader
from litlab.checks.verdict import Verdict, check, failed, passed, skipped
from litlab.data.memory import InMemoryLoader
from litlab.data.workers import WorkersLoader
from litlab.distributed.hardware import is_cpu
from litlab.runs.run import Run

BY_PROCESSES = 1e-3
"""Relative tolerance of weights, as several processes sum the gradients in another order."""


def _apart(one: Run, other: Run) -> str | None:
    """Describe how the final states or metrics of two runs differ; None if they are equal."""
    values, others = measured(one), measured(other)
    metrics = (
        f"{name} is {others.get(name)}, not {value}" for name, value in values.items() if value != others.get(name)
    )
    return difference(final(one), final(other)) or next(metrics, None)


@check("exact", "twice", "does the same come out twice?")
def twice_the_same(subject: Subject) -> Verdict:
    """Train twice, and compare weights, optimizers and metrics to the bit."""
    if told := _apart(subject.whole, subject.train(subject.settings())):
        advice = "draw from torch's generators, and iterate over no sets; on a GPU, trainer.deterministic=true"
        return failed(told, advice)
    return passed("to the bit")


@check("exact", "resume", "does a training that was stopped end in the same?")
def resumes_exactly(subject: Subject) -> Verdict:
    """Stop in the middle of an epoch and resume, and compare to the bit."""
    resumed = subject.train(subject.settings(), stopped_at=BATCHES // 2)
    if told := _apart(subject.whole, resumed):
        advice = "make a buffer of what a step changes, or save it in on_save_checkpoint; a sampler's state, too"
        return failed(told, advice)
    return passed("to the bit")


@check("exact", "steps", "do several steps at a time come to the same?")
def several_steps_at_a_time(subject: Subject) -> Verdict:
    """Compare trainer.steps_per_execution=1 and 50 to the bit."""
    one, many = (subject.train(subject.settings(steps_per_execution=steps)) for steps in (1, 50))
    if told := _apart(one, many):
        return failed(told, "set trainer.steps_per_execution=1")
    return passed("to the bit")


@check("exact", "graph", "does a captured CUDA graph come to the same?")
def graph_is_right(subject: Subject) -> Verdict:
    """Train with a captured graph; the lab compares its steps with eager ones by itself, and records the result."""
    if is_cpu(subject.told.trainer.accelerator) or not torch.cuda.is_available():
        return skipped("no GPU")
    run = subject.train(subject.settings(limit_train_batches=1.0, max_epochs=1, max_steps=64))
    return passed(run.record.cuda_graph or "none")


@check("exact", "processes", "do two processes come to what one does?")
def two_processes(subject: Subject) -> Verdict:
    """Train in two processes on the CPU, and compare the weights within BY_PROCESSES."""
    if not is_cpu(subject.told.trainer.accelerator) and torch.cuda.is_available():
        return skipped("asked on a CPU alone: trainer=cpu")
    if not isinstance(only_loader(subject.built(), "train_dataloader"), InMemoryLoader | WorkersLoader):
        return skipped("a plain DataLoader gives each process batches of its own")
    if subject.watched.draws:
        return skipped("a step draws random numbers, and each process others")
    settings = subject.settings(accelerator="cpu", devices=2)
    told = difference(final(subject.whole)["state_dict"], final(subject.train(settings))["state_dict"], BY_PROCESSES)
    if told:
        return failed(told, "trainer.devices=1; or let no example know of others, as batch normalization does")
    return passed(f"within {BY_PROCESSES:g} of the largest weights")


@check("exact", "loader", "do memory and workers give the same batches?")
def loaders_agree(subject: Subject) -> Verdict:
    """Compare data.loader=memory and workers to the bit, if the data module has both."""
    if "loader" not in subject.told.data:
        return skipped("the data module has no setting `loader`")
    one, other = (subject.train(subject.settings(data={"loader": kind})) for kind in ("memory", "workers"))
    if told := _apart(one, other):
        return failed(told, "see that a worker gives what memory holds, in the same order")
    return passed("to the bit")
