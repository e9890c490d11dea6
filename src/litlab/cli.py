"""The front door: one small function a command. A command imports torch only once its config is valid."""

import sys
from importlib.util import find_spec
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from litlab.commands.command import ending, start
from litlab.config import schema
from litlab.config.command_line import given, of_compare, of_folders, of_predict, of_train
from litlab.config.components import build
from litlab.config.compose import check, config_text, load, load_trained, run_config, write_config
from litlab.config.trust import require_mine
from litlab.console import open_channels, require_written, say
from litlab.distributed import processes
from litlab.distributed.signals import Interrupted, stop
from litlab.errors import TrainingError, UserError
from litlab.files import read_text, write_text
from litlab.job_log import keeping_error
from litlab.runs.last import newest_run, remember
from litlab.runs.links import refuse_traps
from litlab.runs.resume import resumed
from litlab.runs.run import Run, refuse_taken
from litlab.sweeps.job import Job
from litlab.sweeps.launchers.basic import Basic

EXTRA = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch_export": (), "safetensors": ("safetensors",)}
"""Packages of the extra `export` that a format takes."""


def train() -> None:
    """`train [OVERRIDES]`: train, then test the best weights."""
    with ending("train"):
        if processes.given().rank > 0:
            _follow()
            return
        start("train", _train, of_train)


def _follow() -> None:
    """Train along with the process that torchrun or srun has started as the first, whose command line counts."""
    with stop.listening():
        from litlab.distributed.group import follow_given
        from litlab.training.train import follow

        try:
            follow_given(follow)
        except (UserError, TrainingError):  # of which the first tells
            sys.exit(1)
        except Interrupted as error:
            sys.exit(error.exit_code)


def evaluate() -> None:
    """`evaluate run=FOLDER`: test the weights that a run left behind."""
    start("evaluate", _evaluate)


def reproduce() -> None:
    """`reproduce run=FOLDER`: run a run's config again, and say whether the results are the same."""
    start("reproduce", _reproduce)


def compare() -> None:
    """`compare FOLDER… [where='optimizer.lr<0.01']`: runs side by side, grouped by their settings without the seed."""
    start("compare", _compare, of_compare)


def predict() -> None:
    """`predict run=FOLDER input=PATH`: what is on pictures."""
    start("predict", _predict, of_predict)


def export() -> None:
    """`litlab export run=FOLDER format=onnx`: one file that answers as the run's model does, without this project."""
    start("export", _export)


def trust() -> None:
    """`litlab trust FOLDER`: show what a run or sweep from elsewhere would do, and mark it as one's own."""
    start("trust", _trust, of_folders)


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
        run, own = resumed(composed, typed)
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
    from litlab.training.train import train as train_function

    with keeping_error():
        train_function(settings, folder, overrides, resuming=changed is not None, changed=changed)


def _evaluate(composed: DictConfig) -> None:
    config = check(composed, schema.Evaluate)
    run, checkpoint, trained = _trained(config.run, config.paths)
    if config.data.dir is not None:
        trained = _with_data_in(trained, config.data.dir)
    folder = _job_folder(composed)
    from litlab.inference.evaluate import evaluate as evaluate_function

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
    write_text(folder / "config.yaml", read_text(run.folder / "config.yaml"))  # it is a training, and can be resumed
    from litlab.training.reproduce import reproduce as reproduce_function

    if not reproduce_function(run, trained, folder):
        sys.exit(1)


def _compare(composed: DictConfig) -> None:
    config = check(composed, schema.Compare)
    from litlab.comparison.compare import compare as compare_function
    from litlab.comparison.compare import report

    folders = [Path(folder).expanduser() for folder in config.folders]
    comparison = compare_function(folders, config.metric, config.mode, config.where)
    report(comparison, config.format, Path(config.pictures).expanduser() if config.pictures else None)
    require_written()


def _predict(composed: DictConfig) -> None:
    config = check(composed, schema.Predict)
    run, checkpoint, trained = _trained(config.run, config.paths)
    from litlab.data.pictures import find

    pictures = find(config.input)
    from litlab.inference.predict import predict as predict_function
    from litlab.inference.predict import report

    accelerator = config.accelerator or trained.trainer.accelerator
    predictions = predict_function(trained, checkpoint, accelerator, run.record.precision, pictures)
    drawing = "predictions.png" if config.show is True else config.show
    code = report(predictions, config.format, Path(drawing).expanduser() if drawing else None)
    require_written()
    sys.exit(code)


def _export(composed: DictConfig) -> None:
    config = check(composed, schema.Export)
    run, checkpoint, trained = _trained(config.run, config.paths)
    if missing := [package for package in EXTRA[config.format] if find_spec(package) is None]:
        raise UserError(f"format={config.format}: takes {', '.join(missing)}; pip install -e '.[export]' brings all")
    if config.file is None:
        refuse_traps(run.folder, f"run={config.run}")
    from litlab.inference.export import export as export_function

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
