"""The front door: one small function a command. A command imports torch only once its config is valid."""

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from litlab import processes, schema
from litlab.arguments import given, of_compare, of_folders, of_predict, of_train
from litlab.components import build
from litlab.config import check, config_text, explain, load, load_trained, run_config, without, write_config
from litlab.console import open_channels, say
from litlab.errors import ProcessLost, TrainingError, UserError, VerificationError
from litlab.interruption import Interrupted, stop
from litlab.job_log import keeping_error
from litlab.project import CONFIGS
from litlab.refusals import is_text, visible
from litlab.resume import resumed_config, run_to_resume
from litlab.runs.last import newest_run, remember
from litlab.runs.links import break_links, refuse_traps
from litlab.runs.run import Run, refuse_taken
from litlab.runs.storage_faults import storage_may_fail
from litlab.runs.trust import require_mine
from litlab.sweeps.job import Job
from litlab.sweeps.launchers.basic import Basic

SCHEMAS: dict[str, type[schema.Settings]] = {
    "train": schema.TrainCommand,
    "evaluate": schema.Evaluate,
    "reproduce": schema.Reproduce,
    "compare": schema.Compare,
    "predict": schema.Predict,
    "export": schema.Export,
    "trust": schema.Trust,
}

EXTRA = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch_export": (), "safetensors": ("safetensors",)}
"""Packages of the extra `export` that a format takes."""

LEAVE_NOTHING = ("compare", "predict", "export", "trust")
"""Commands that have no folder of their own."""

started = threading.Event()
"""Whether Hydra has done its part: from then on an error is ours to explain."""


def train() -> None:
    """`train [OVERRIDES]`: train, then test the best weights."""
    with _ending("train"):
        if processes.given().rank > 0:
            _follow()
            return
        sys.argv[1:] = of_train(sys.argv[1:])
    _run("train", _train)


def _follow() -> None:
    """Train along with the process that torchrun or srun has started as the first, whose command line counts."""
    with stop.listening():
        from litlab.commands.train import follow
        from litlab.engine.group import follow_given

        try:
            follow_given(follow)
        except (UserError, TrainingError):  # of which the first tells
            sys.exit(1)
        except Interrupted as error:
            sys.exit(error.exit_code)


def evaluate() -> None:
    """`evaluate run=FOLDER`: test the weights that a run left behind."""
    _run("evaluate", _evaluate)


def reproduce() -> None:
    """`reproduce run=FOLDER`: run a run's config again, and say whether the results are the same."""
    _run("reproduce", _reproduce)


def compare() -> None:
    """`compare FOLDER… [where='optimizer.lr<0.01']`: runs side by side, grouped by their settings without the seed."""
    sys.argv[1:] = of_compare(sys.argv[1:])
    _run("compare", _compare)


def predict() -> None:
    """`predict run=FOLDER input=PATH`: what is on pictures."""
    sys.argv[1:] = of_predict(sys.argv[1:])
    _run("predict", _predict)


def export() -> None:
    """`litlab export run=FOLDER format=onnx`: one file that answers as the run's model does, without this project."""
    _run("export", _export)


def trust() -> None:
    """`litlab trust FOLDER`: show what a run or sweep from elsewhere would do, and mark it as one's own."""
    sys.argv[1:] = of_folders(sys.argv[1:])
    _run("trust", _trust)


def main() -> None:
    """`litlab COMMAND [OVERRIDES]`, or `python -m litlab …`: a command by its name."""
    open_channels()
    commands = {command.__name__: command for command in (train, evaluate, reproduce, compare, predict, export, trust)}
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in commands:
        say(f"litlab: usage: python -m litlab {'|'.join(commands)} [OVERRIDES]", sys.stderr)
        sys.exit(2)
    sys.argv[0] = f"python -m litlab {name}"
    commands[name]()


def _train(composed: DictConfig) -> None:
    command = check(composed, schema.TrainCommand)
    typed = given(HydraConfig.get().overrides.task)
    if command.resume.run is None:
        own, changed = run_config(composed), None
        folder = _job_folder(own)
        remember(folder, Path(own.paths.logs))
    else:
        run, own = _resumed(composed, typed)
        if command.resume.run == "last":
            say(f"resume=last: {run.folder}", sys.stderr)
        folder, changed = run.folder, config_text(own)
    own_keys = [key for key in typed if key.partition(".")[0] not in ("resume", "launcher")]
    overrides = {key: typed[key].partition("=")[2] for key in own_keys}
    settings = check(own, schema.Train)
    launcher = build(command.launcher)
    if not isinstance(launcher, Basic):
        from litlab.sweeps.alone import alone

        alone(Job(folder, 0, overrides, changed=changed), launcher)
        return
    if settings.trainer.devices not in (1, -1):
        processes.nursery()  # imports torch, too, while this process does
    from litlab.commands.train import train as train_function

    with keeping_error():
        train_function(settings, folder, overrides, resuming=changed is not None, changed=changed)


def _resumed(composed: DictConfig, typed: Mapping[str, str]) -> tuple[Run, DictConfig]:
    """The run that goes on, and its config."""
    run = run_to_resume(composed.resume.run, Path(composed.paths.logs))
    return run, resumed_config(run, composed, typed)


def _evaluate(composed: DictConfig) -> None:
    config = check(composed, schema.Evaluate)
    run, checkpoint, trained = _trained(config.run, config.paths)
    if config.data.dir is not None:
        trained = _with_data_in(trained, config.data.dir)
    folder = _job_folder(composed)
    from litlab.commands.evaluate import evaluate as evaluate_function

    accelerator = config.accelerator or trained.trainer.accelerator
    evaluate_function(trained, checkpoint, accelerator, run.record.precision, folder)


def _reproduce(composed: DictConfig) -> None:
    config = check(composed, schema.Reproduce)
    run = Run.open(_path(config.run, config.paths))
    if run.record.evaluated is not None:
        raise UserError(f"run={config.run}: is an evaluation, of {run.record.evaluated}; only a training is reproduced")
    require_mine(run.folder / "config.yaml", f"run={config.run}")
    trained = load(run.folder / "config.yaml", schema.Train)
    if run.record.status != "done":
        raise UserError(f"run={config.run}: nothing to compare with, the run's status is {run.record.status}")
    run.best_checkpoint()  # which may be gone
    folder = _job_folder(composed)
    shutil.copyfile(run.folder / "config.yaml", folder / "config.yaml")  # it is a training, which can be resumed
    from litlab.commands.reproduce import reproduce as reproduce_function

    if not reproduce_function(run, trained, folder):
        sys.exit(1)


def _compare(composed: DictConfig) -> None:
    config = check(composed, schema.Compare)
    from litlab.commands.compare import compare as compare_function
    from litlab.commands.compare import report

    folders = [Path(folder).expanduser() for folder in config.folders]
    comparison = compare_function(folders, config.metric, config.mode, config.where)
    report(comparison, config.format, Path(config.pictures).expanduser() if config.pictures else None)


def _predict(composed: DictConfig) -> None:
    config = check(composed, schema.Predict)
    run, checkpoint, trained = _trained(config.run, config.paths)
    from litlab.data.pictures import find

    pictures = find(config.input)
    from litlab.commands.predict import predict as predict_function
    from litlab.commands.predict import report

    accelerator = config.accelerator or trained.trainer.accelerator
    predictions = predict_function(trained, checkpoint, accelerator, run.record.precision, pictures)
    drawing = "predictions.png" if config.show is True else config.show
    sys.exit(report(predictions, config.format, Path(drawing).expanduser() if drawing else None))


def _export(composed: DictConfig) -> None:
    config = check(composed, schema.Export)
    run, checkpoint, trained = _trained(config.run, config.paths)
    if missing := [package for package in EXTRA[config.format] if find_spec(package) is None]:
        raise UserError(f"format={config.format}: takes {', '.join(missing)}; pip install -e '.[export]' brings all")
    if config.file is None:
        refuse_traps(run.folder, f"run={config.run}")
    from litlab.commands.export import export as export_function

    export_function(run, trained, checkpoint, config.format, Path(config.file).expanduser() if config.file else None)


def _trust(composed: DictConfig) -> None:
    config = check(composed, schema.Trust)
    from litlab.commands.trust import trust as trust_function

    for folder in config.folders:
        trust_function(Path(folder).expanduser(), config.yes)


def _trained(asked: str | int, paths: schema.Paths) -> tuple[Run, Path, schema.Train]:
    """The run that was asked for, the checkpoint that was, or its best one, and its config."""
    path = _path(asked, paths)
    run = Run.open(path)
    checkpoint = path.absolute() if path.suffix == ".ckpt" else run.best_checkpoint()
    return run, checkpoint, load_trained(run.folder / "config.yaml", paths)


def _with_data_in(trained: schema.Train, folder: str) -> schema.Train:
    """The run's config, with its data in another folder."""
    if "dir" not in trained.data:
        raise UserError(f"data.dir={folder}: {trained.data['_target_']}, the run's data module, takes no dir")
    return trained.model_copy(update={"data": trained.data | {"dir": folder}})


def _path(run: str | int, paths: schema.Paths) -> Path:
    """Where the run is that was asked for."""
    if run != "last":
        return Path(str(run)).expanduser()
    folder = newest_run(Path(paths.logs)).folder
    say(f"run=last: {folder}", sys.stderr)
    return folder


def _job_folder(composed: DictConfig) -> Path:
    """The folder that Hydra made for this job, now with the composed config in it."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    refuse_taken(folder)
    write_config(folder, composed)
    return folder


class CheckFirst(Callback):
    """Refuses a bad config before Hydra makes a folder; of a multirun, before the first job starts."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of a single run, and that its folder is free."""
        command = kwargs["config_name"]
        with _ending(command):
            os.environ.update(config.hydra.job.env_set)  # Hydra itself does so later
            own = without(config, {"hydra"})
            check(own, SCHEMAS[command])
            typed = list(config.hydra.overrides.task)
            if command != "train":
                _refuse_several_processes()
            if of_sweeps := [text for text in typed if re.match(r"sweep[.=]", text)]:
                raise UserError(f"{of_sweeps[0]}: is for a sweep; add -m, or leave it out")
            if command == "train":
                build(check(own, schema.TrainCommand).launcher)  # which may refuse
            if OmegaConf.select(own, "resume.run") is not None:
                run, resumed = _resumed(own, given(typed))
                check(resumed, schema.Train)
                with storage_may_fail(run.folder):
                    break_links(run.folder)  # before Hydra opens train.log
            elif command not in LEAVE_NOTHING:
                config_text(run_config(config))
                refuse_taken(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Only trainings make a sweep; litlab.sweeps checks their configs."""
        command = kwargs["config_name"]
        with _ending(command):
            os.environ.update(config.hydra.job.env_set)
            if command != "train":
                raise UserError("does one thing at a time: leave out -m")
            _refuse_other_sweepers(config)
            _refuse_several_processes()
        started.set()


def _refuse_other_sweepers(config: DictConfig) -> None:
    """Refuse what a config file sets of Hydra's sweepers; the command line was looked at before.

    Raises:
        UserError: the sweep would not be the lab's own, or would not obey it.
    """
    hydras = cast("dict[str, Any]", OmegaConf.to_container(config.hydra, resolve=False))
    expected = {
        "sweeper": {"_target_": "hydra_plugins.litlab_sweeps.StudySweeper"},
        "launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
        "sweep": {"dir": hydras["sweep"]["dir"], "subdir": "${hydra.job.num}"},
    }
    for key, value in expected.items():
        if hydras[key] != value:
            raise UserError(f"hydra.{key}={hydras[key]}: only hydra.sweep.dir is obeyed; leave the rest out")


def _refuse_several_processes() -> None:
    if processes.given().count > 1:
        raise UserError("torchrun and srun can start several processes for one training alone: leave them out")


def _run(name: str, job: Callable[[DictConfig], Any]) -> None:
    """Let Hydra parse the command line and run `job`; what the user can put right ends in one line and exit code 2."""

    def guarded_job(composed: DictConfig) -> Any:
        started.set()
        with _ending(name):
            return job(composed)

    started.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them and leaving
    threading.excepthook = _tell_of_thread
    with _ending(name), stop.listening():
        _refuse_undecodable(sys.argv[1:])
        processes.forget_others()
        processes.shorten_socket_paths()
        try:
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(guarded_job)()
        except Exception as error:
            if started.is_set() or isinstance(error, UserError | HydraException | OmegaConfBaseException):
                raise
            # Hydra could not make a config or a folder of what was asked; a log file's error is the cause of another.
            failed = error if isinstance(error, OSError) else error.__cause__
            if isinstance(failed, OSError) and failed.filename:
                raise UserError(f"{failed.filename} cannot be used: {failed.strerror}") from error
            raise UserError(explain(error)) from error


def _refuse_undecodable(arguments: Sequence[str]) -> None:
    """Refuse what could not be written into a config or a record: names of files may be any bytes."""
    for text in arguments:
        if not is_text(text):
            hint = "rename it, or set PYTHONUTF8=1 if it is UTF-8"
            raise UserError(f"{text}: cannot be read as {sys.getfilesystemencoding()}; {hint}")


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """A thread that cannot write says so to whoever waits for it; that is enough."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


@contextmanager
def _ending(name: str) -> Iterator[None]:
    """End the command as it should end: with a line for each thing that was wrong, and the right exit code."""
    open_channels()
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        _leave(name, str(error) if isinstance(error, UserError) else explain(error), 2)
    except (TrainingError, VerificationError, ProcessLost) as error:
        _leave(name, visible(str(error)), 1)
    except Interrupted as error:
        _leave(name, f"stopped by {error}", error.exit_code)


def _leave(name: str, message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        say(f"{name}: {line}", sys.stderr)
    sys.exit(code)
