"""Training: from a config to a run."""

import logging
import platform
import re
import signal
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ProgressBar, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden

import litlab
from litlab.callbacks.checkpoints import Checkpoints, Rewindable, numbers, place_of
from litlab.callbacks.class_accuracy import ClassAccuracy
from litlab.callbacks.first_batch import FirstBatch, telling_of_labels
from litlab.callbacks.guard import guarded
from litlab.callbacks.overview import Overview
from litlab.callbacks.progress import progress
from litlab.callbacks.pruning import Pruning
from litlab.callbacks.record import RecordRun
from litlab.callbacks.required import RequiredMetrics
from litlab.callbacks.shared_metrics import SharedMetrics
from litlab.callbacks.throughput import Throughput
from litlab.config import schema
from litlab.config.components import build, import_target, parameters, takes
from litlab.data.augment import on_each_image
from litlab.distributed import debugger
from litlab.distributed.ddp import ExactDDP
from litlab.distributed.group import from_first, is_first, noticing_loss, place, together
from litlab.distributed.hardware import best_precision, is_cpu, keep_memory, use_all_cores
from litlab.distributed.signals import Interrupted
from litlab.engine.metrics import StepMetrics
from litlab.engine.schedule import ScheduleFactory
from litlab.engine.steps import execute_steps
from litlab.engine.stopping import StoppableTrainer
from litlab.errors import ProcessLost, TrainingError, UserError
from litlab.files import write_text
from litlab.messages import first_lines, one_line
from litlab.runs.checkpoint import load_weights, read_resumable, restore_data
from litlab.runs.links import break_links, require_inside
from litlab.runs.run import Record, Run
from litlab.runs.storage_faults import storage_may_fail
from litlab.runs.terminal import ending, opening, tensorboard_command
from litlab.runs.writing import WholeFiles

log = logging.getLogger(__name__)

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}

# Which devices there are and what each default means; set here because Lightning sets its own level when imported.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
# Lightning 2.6 asks torch in a way that torch 2.14 calls old; a user can do nothing about it.
warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
# An empty list is how a data module says that nothing is held out; where that matters, RecordRun says so.
warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
# Whether Slurm starts the processes is the command line's choice, and `litlab.distributed.processes` knows.
warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")


def train(
    config: schema.Train,
    folder: Path,
    overrides: Mapping[str, str] | None = None,
    resuming: bool = False,
    changed: str | None = None,
    hopeless: tuple[str, Callable[[int, float], bool]] | None = None,
    objectives: Sequence[str] = (),
) -> Run:
    """Train as `config` says, test the best weights, and leave everything in `folder`, which exists.

    Args:
        config: what to do.
        folder: where to leave the results.
        overrides: what was set for this run alone; with a run that goes on, now.
        resuming: whether to go on with the run in `folder`, from its last checkpoint; it may have none yet.
        changed: config.yaml of a run that goes on, written once it does.
        hopeless: in a sweep, a metric, and what takes a validation's number, from 0, and its value of the metric, and
            says whether to stop.
        objectives: in a sweep, the metrics that the jobs are compared by.

    Raises:
        UserError: the config asks for what cannot be had, such as a GPU or a metric that nothing logs; the checkpoint
            is not one of this run; the folder cannot be written.
        TrainingError: the loss became infinite or no number.
        Pruned: the run is hopeless.
        Interrupted: a signal asked to stop.
        ProcessLost: another process that trains along has ended.
    """
    with storage_may_fail(folder):
        run = Run.reopen(folder) if resuming else Run.create(folder, config.seed)
    run.record.overrides |= overrides or {}
    task = Task(config, folder, run.record, resuming, hopeless[0] if hopeless else None, objectives)
    with run.tracked(), _failing_with_a_hint(run), together(processes_here(config.trainer), task, follow):
        _train(config, run, resuming, changed, hopeless, objectives)
        log.info("results: %s\ncurves:  %s", folder, tensorboard_command(folder))
        if run.record.reason:
            log.info("%s", run.record.reason)
    return run


@dataclass(frozen=True)
class Task:
    """What the first of several processes tells the others."""

    config: schema.Train
    folder: Path
    record: Record
    resuming: bool
    pruned_by: str | None
    """The metric by which the first process may find the run hopeless."""
    objectives: Sequence[str]
    """The metrics that the jobs of a sweep are compared by."""


def follow(task: Task) -> None:
    """Train along with the first process, which alone writes the results and speaks to the user."""
    logging.disable()
    warnings.simplefilter("ignore")
    hopeless = (task.pruned_by, lambda *_: False) if task.pruned_by else None
    _train(task.config, Run(task.folder, task.record), task.resuming, None, hopeless, task.objectives)


def _train(
    config: schema.Train,
    run: Run,
    resuming: bool,
    changed: str | None,
    hopeless: tuple[str, Callable[[int, float], bool]] | None,
    objectives: Sequence[str],
) -> None:
    """What each of the processes does."""
    use_all_cores()
    keep_memory()
    seed_everything(config.seed, workers=True, verbose=False)  # before anything is built
    data: LightningDataModule = build(config.data, key="data")
    module = build_module(config)
    trainer, checkpoints, overview, chosen = set_up(config, run, module, objectives)
    if hopeless:
        trainer.callbacks.append(Pruning(run, *hopeless))  # type: ignore[attr-defined]  # the last of all
    saved = from_first(lambda: run.last_checkpoint if resuming and run.has_saved() else None)
    with _refusals_are_the_users(chosen), _refusing_to_restore(saved, checkpoints):
        if is_first():
            if resuming:
                take_up(run, trainer.loggers, read_resumable(saved, module) if saved else None)
            else:
                run.save()
            if changed is not None:
                write_text(run.folder / "config.yaml", changed)
            log.info(opening(run, sum(weight.numel() for weight in module.parameters() if weight.requires_grad)))
    untestable = _untestable(module, data) if config.test else None
    if untestable:
        log.info("test: %s, so the best weights are not tested", untestable)
    tests = config.test and not untestable
    pause = getattr(trainer.progress_bar_callback, "pause", lambda: None)  # of a bar, where there is a terminal
    with overview.closing(), debugger.announced(pause):
        restoring = _refusing_to_restore(saved, checkpoints)
        with _refusals_are_the_users(chosen), restoring, noticing_loss(), telling_of_labels():
            trainer.fit(module, datamodule=data, ckpt_path=saved)
        if tests:
            if is_first():  # DDP hands its weights to the others
                load_weights(module, run.best_checkpoint())
            with noticing_loss():
                test(run, trainer, module, data)


def _untestable(module: LightningModule, data: LightningDataModule) -> str | None:
    """Why the weights cannot be tested, if so."""
    if not is_overridden("test_step", module):
        return f"{type(module).__name__} has no test_step"
    return None if is_overridden("test_dataloader", data) else f"{type(data).__name__} has no test_dataloader"


def processes_here(config: schema.Trainer) -> int:
    """How many processes train together on this machine, if nobody has started them: one a device."""
    if isinstance(config.devices, list):
        return len(config.devices)
    return config.devices if config.devices > 0 else max(1, torch.cuda.device_count())


def set_up(
    config: schema.Train, run: Run, module: LightningModule, objectives: Sequence[str] = ()
) -> tuple[Trainer, Checkpoints, Overview, dict[str, Callback]]:
    """Lightning's Trainer with all that a run has; its callbacks that save and that end the run, and the config's."""
    metrics = StepMetrics(config.trainer.on_nan == "skip")  # the first, so that the others find what it gathers
    throughput, checkpoints = Throughput(), Checkpoints(run, config, metrics)
    overview = Overview(run)
    chosen = {f"callbacks.{name}": build(node, key=f"callbacks.{name}") for name, node in config.callbacks.items()}
    views = {f"views.{name}": build(node, key=f"views.{name}") for name, node in config.views.items()}
    chosen |= {key: guarded(key, view) for key, view in views.items()}
    first = [RecordRun(run, throughput, metrics, chosen), overview, progress()] if is_first() else []
    _refuse_tuners(chosen)
    required = RequiredMetrics.of(config, chosen, objectives)
    fits = FirstBatch(config.data, config.model)
    own = [
        fits,
        throughput,
        guarded("accuracy of each class", ClassAccuracy(run)),
        SharedMetrics(),
        required,
        *first,
        checkpoints,
    ]
    if config.trainer.precision == "auto" and run.record.precision is None:
        chosen_here = partial(best_precision, config.trainer.accelerator, module)
        run.record.precision, reason = from_first(chosen_here)
        log.info("trainer.precision=auto: %s, as %s", run.record.precision, reason)
    trainer = make_trainer(
        config.trainer,
        callbacks=[metrics, *chosen.values(), *own],
        logger=[build(node, key=f"logger.{name}", save_dir=run.folder) for name, node in config.logger.items()],
        folder=run.folder,
        precision=run.record.precision,
    )
    if config.trainer.max_time:
        chosen["trainer.max_time"] = next(one for one in trainer.callbacks if isinstance(one, Timer))  # type: ignore[attr-defined]
    execute_steps(trainer, config.trainer.steps_per_execution, metrics, checkpoints)
    note_device(run, trainer)
    run.record.settings = config.model_dump()
    return trainer, checkpoints, overview, chosen


def _refuse_tuners(callbacks: Mapping[str, Callback]) -> None:
    """Refuse what tries settings out in trainings within the training, which a run's folder cannot hold.

    Raises:
        UserError: there is one.
    """
    for key, callback in callbacks.items():
        for kind, setting in ((BatchSizeFinder, "data.batch_size"), (LearningRateFinder, "optimizer.lr")):
            if isinstance(callback, kind):
                found = f"what a {kind.__name__} finds would not be in the run's config"
                raise UserError(f"{key}: {found}; try values of {setting} by -m")


def take_up(run: Run, loggers: list[Logger], checkpoint: dict[str, Any] | None) -> None:
    """Go back to where the checkpoint was written; without one, to the beginning."""
    step, positions = 0, None
    if checkpoint is not None:
        step, positions = checkpoint["global_step"], checkpoint["callbacks"][Checkpoints.__qualname__]["loggers"]
    rewindable = [logger for logger in loggers if isinstance(logger, Rewindable)]
    for home in {Path(logger.log_dir) for logger in rewindable}:
        require_inside(home, run.folder, f"resume={run.folder}")
        break_links(home)
    if others := run.other_versions():
        changes = ", ".join(f"{name} {began}, now {now}" for name, (began, now) in others.items())
        log.warning("this run began with other versions: %s; it will not be exact to the bit", one_line(changes))
    run.go_on(step)
    run.save()  # before curves are cut: from here on it is unfinished, also if it is killed at once
    for logger in rewindable:
        place = place_of(logger, run.folder)
        if positions is None or place in positions:
            last_step = logger.rewind(positions[place] if positions else {})
            if last_step is not None:
                hole = f"a hole from step {last_step} to step {step}"
                log.warning("the curves of %s have %s: files are shorter than they were", place, hole)


def restored(config: schema.Train, checkpoint: Path) -> tuple[LightningDataModule, LightningModule]:
    """The data module and the LightningModule of a run with this config, with the weights of a checkpoint of it.

    Classes and split of the data are the run's, if the data module can take them.

    Raises:
        UserError: the checkpoint is damaged or of another network.
    """
    data: LightningDataModule = build(config.data, key="data")
    module = build_module(config)
    load_weights(module, checkpoint)
    restore_data(data, checkpoint)
    return data, module


def build_module(config: schema.Train) -> LightningModule:
    """The LightningModule with its network, its weights drawn anew.

    It is given what its constructor takes of `optimizer`, `scheduler` and `augment`.

    Raises:
        UserError: it cannot be built, or does not take what the config has for it.
    """
    target = config.model["_target_"]
    found = import_target(target, "model")
    parts: dict[str, Any] = {}
    if config.optimizer:
        parts["optimizer"] = partial(build, config.optimizer, key="optimizer")
    elif (argument := parameters(found).get("optimizer")) and argument.default is argument.empty:
        raise UserError(f"optimizer=none: {target} takes one; choose it, such as optimizer=adam")
    if config.scheduler:
        parts["scheduler"] = ScheduleFactory(config.scheduler, config.checkpoint)
    if config.augment:
        parts["augment"] = on_each_image(build(config.augment, key="augment"))
    for name in [name for name in parts if not takes(found, name)]:
        del parts[name]
        if name != "optimizer":
            raise UserError(f"{name}: {target} takes no argument of that name; leave it out by {name}=none")
        log.warning("optimizer: %s takes none and makes its own; optimizer=none says so", target)
    module = build(config.model, key="model", **parts)
    if not isinstance(module, LightningModule):
        raise UserError(f"model._target_={target}: gives a {type(module).__name__}, not a LightningModule")
    return module


def make_trainer(
    config: schema.Trainer,
    callbacks: list[Callback],
    logger: list[Logger],
    folder: Path,
    precision: str | None = None,
) -> Trainer:
    """Lightning's Trainer; it draws and prints nothing of its own but a progress bar among the `callbacks`.

    Where the config leaves the choice, `precision` is the number format that the run has chosen.

    Raises:
        UserError: Lightning refuses these settings, or would silently compute in another number format.
    """
    settings = config.model_dump(exclude={"steps_per_execution", "on_nan"})
    if place().count > 1:
        settings |= {"strategy": ExactDDP(), "num_nodes": place().count // place().local_count}
        if not isinstance(config.devices, list):
            settings["devices"] = place().local_count
    if config.precision == "auto":
        settings["precision"] = precision or "32-true"
    if settings["precision"] == "16-mixed" and is_cpu(config.accelerator):  # Lightning would take bf16-mixed
        raise UserError("trainer.precision=16-mixed: is for GPUs, and this is a CPU; set bf16-mixed, 32-true or auto")
    if config.profiler and is_first():
        settings["profiler"] = PROFILERS[config.profiler](dirpath=folder, filename="profile")
    with _refusals_are_the_users(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="GPU available but not used")  # as trainer=cpu says
        trainer = StoppableTrainer(
            **settings,
            callbacks=callbacks,
            logger=logger,
            plugins=[WholeFiles(folder), LightningEnvironment()] if place().count == 1 else WholeFiles(folder),
            default_root_dir=folder,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        )
    if place().count > 1:  # Lightning's handler of SIGTERM waits for the other processes, wherever this one is
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def settings_elsewhere(config: schema.Trainer, accelerator: str) -> schema.Trainer:
    """A run's settings of the Trainer for one device of another kind; a CPU takes 32 bits for a GPU's 16."""
    changes: dict[str, Any] = {"accelerator": accelerator, "devices": 1, "profiler": None}
    if config.precision == "16-mixed" and is_cpu(accelerator):
        log.info("trainer.precision=16-mixed is for GPUs; on this CPU it is 32-true")
        changes["precision"] = "32-true"
    return config.model_copy(update=changes)


def test(run: Run, trainer: Trainer, module: LightningModule, data: LightningDataModule) -> None:
    """Test the module's weights as they are; the metrics are recorded and printed."""
    trainer.test(module, datamodule=data, verbose=False)
    run.record.metrics.test = numbers(trainer)
    log.info(ending(run.record.metrics))


def describe(trainer: Trainer) -> str:
    """The device and its number format in words that tell machines apart."""
    device = trainer.strategy.root_device
    is_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    several = f"{trainer.world_size} processes, each on " if trainer.world_size > 1 else ""
    return f"{several}{device} ({name}, {trainer.precision})"


def note_device(run: Run, trainer: Trainer) -> None:
    """Record what the run is computed on; if that has changed since the run began, say so."""
    device, before = describe(trainer), run.record.device
    if before and device != before:
        log.warning("this run began on %s and goes on on %s: it will not be exact to the bit", before, device)
    run.record.device = device
    run.record.precision = trainer.precision  # type: ignore[assignment]  # the config allows no others


@contextmanager
def _refusing_to_restore(file: Path | None, checkpoints: Checkpoints) -> Iterator[None]:
    """Whatever fails between reading a checkpoint and the first step is the checkpoint's fault."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        if file is None or checkpoints.begun:
            raise
        raise UserError(f"{file} is not of this run, or damaged: {first_lines(error)}") from error


@contextmanager
def _failing_with_a_hint(run: Run) -> Iterator[None]:
    """What ends the training early is told with the way to go on."""
    try:
        try:
            with storage_may_fail(run.folder):
                yield
        except SIGTERMException as error:  # Lightning has noticed the signal first
            raise Interrupted(signal.SIGTERM) from error
    except Interrupted as error:
        log.info("stopped by %s; to go on: %s", error, run.resume_command)
        raise
    except ProcessLost as error:
        raise ProcessLost(f"{error}; what was saved is whole, go on with: {run.resume_command}") from error
    except TrainingError as error:
        kept = f"the last good checkpoint is {run.last_checkpoint}" if run.last_checkpoint.exists() else "none was kept"
        hint = "try a lower optimizer.lr, trainer.gradient_clip_val, or trainer.on_nan=skip"
        raise TrainingError(f"{error}; {kept}; {hint}") from error


@contextmanager
def _refusals_are_the_users(callbacks: Mapping[str, Callback] = MappingProxyType({})) -> Iterator[None]:
    """What Lightning itself refuses, not the code that it calls, the user can put right by a setting or in a line.

    Args:
        callbacks: those that the config names, by their keys.
    """
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not Path(frames[-1].filename).is_relative_to(Path(lightning.__file__).parent):
            raise
        reason = str(error).strip().partition("\n")[0]
        selves = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if key := next((key for key, callback in callbacks.items() if any(callback is one for one in selves)), None):
            raise UserError(f"{key}: {reason}") from error
        ours = [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib")), Path(litlab.__file__).parent]
        called = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(part) for part in ours)]
        if called:
            line = f"{called[-1].filename}:{called[-1].lineno}"
            raise UserError(f"Lightning refuses what {line} asks for: {reason}") from error
        raise UserError(f"Lightning refuses these settings: {_by_our_keys(reason)}") from error


def _by_our_keys(text: str) -> str:
    """Lightning's text with its arguments written as our command line takes them."""

    def key(argument: re.Match[str]) -> str:
        if argument[1] not in schema.Trainer.model_fields:
            return argument[0]
        return f"trainer.{argument[1]}{(argument[2] or '').replace('None', 'null')}"

    return re.sub(r"`(\w+)(=\w+)?`", key, text)
