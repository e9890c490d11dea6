"""What is on pictures, by what a run has trained."""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from rich.cells import cell_len
from rich.console import Console
from rich.progress import track
from torch import Tensor

from litlab.callbacks.predictions import colours
from litlab.config import schema
from litlab.console import csv_text, print_document, say
from litlab.data.pictures import Pictures, read
from litlab.distributed.hardware import cores, use_all_cores
from litlab.errors import UserError
from litlab.files import replacing
from litlab.messages import one_line, visible
from litlab.training.restore import restored
from litlab.training.trainer import make_trainer, settings_elsewhere
from litlab.views.figures import tiles

BATCH = 256
"""Pictures that the network sees at once."""

CHUNK = 16
"""Pictures that a thread reads before it reports; to report each would take as long as to read it."""

MOST_DRAWN = 400
"""Pictures that are drawn; more than that nobody looks at."""

Label = str | int


@dataclass(frozen=True)
class Answer:
    """What the network says of a picture."""

    file: str
    label: Label
    probability: float
    runner_up: Label
    runner_up_probability: float


@dataclass(frozen=True)
class Predictions:
    """What came of a number of pictures."""

    answers: list[Answer]
    refused: dict[str, str]
    """The files that could not be read, and why."""
    word: str
    """What a class is called."""
    images: Tensor
    """The first of the pictures as the network sees them, (N, channels, height, width), at most MOST_DRAWN."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """The answers by the names of what they hold."""
        for answer in self.answers:
            row = vars(answer).copy()
            yield {"file": row.pop("file"), self.word: row.pop("label"), **row}


def predict(
    trained: schema.Train, checkpoint: Path, accelerator: str, precision: str | None, pictures: Pictures
) -> Predictions:
    """What is on the pictures, by the weights in `checkpoint`, from a run whose config is `trained`.

    Args:
        trained: the config.
        checkpoint: the file.
        accelerator: the kind of device to compute on.
        precision: the number format that the run chose by itself, if it did.
        pictures: what litlab.data.pictures.find has found.

    Raises:
        UserError: the checkpoint is damaged or of another network, the data module cannot read pictures, the model is
            no classifier, or there is no such accelerator.
    """
    use_all_cores()
    data, module = restored(trained, checkpoint)
    if not callable(getattr(data, "read_picture", None)):
        raise UserError(f"{trained.data['_target_']} cannot read pictures: that takes a method read_picture(picture)")
    settings = settings_elsewhere(trained.trainer, accelerator)
    trainer = make_trainer(settings, [], [], checkpoint.parent, precision)
    module.to(trainer.strategy.root_device).eval()
    known: Sequence[Label] | None = None
    answers: list[Answer] = []
    refused: dict[str, str] = {}
    drawn: list[Tensor] = []
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        for names, batch in _batches(data, pictures, refused):
            images = as_batch(data, batch.to(module.device))
            probabilities = module(images).float().softmax(1)
            known = known or labels(data, probabilities)
            answers += _answers(names, probabilities, known)
            if len(answers) - len(names) < MOST_DRAWN:
                drawn.append(images.float().cpu())
    images = torch.cat(drawn)[:MOST_DRAWN] if drawn else torch.empty(0)
    return Predictions(answers, refused, getattr(data, "class_word", "class"), images)


def as_batch(data: LightningDataModule, images: Tensor) -> Tensor:
    """Images as they are in a batch of the data module's, once they are on the device, made what the network sees."""
    unlabelled = images.new_zeros(len(images), dtype=torch.int64)
    seen: Tensor = data.on_after_batch_transfer((images, unlabelled), 0)[0]
    return seen


def labels(data: LightningDataModule, probabilities: Tensor) -> Sequence[Label]:
    """The data module's `class_names`, if it has them; else numbers from 0.

    Raises:
        UserError: the model does not give one score a class, or for another number of classes.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise UserError(
            f"the model is not a classifier: its answers are {tuple(probabilities.shape)}, not (N, classes)"
        )
    classes = probabilities.shape[1]
    names: Sequence[str] = getattr(data, "class_names", None) or ()
    if names and len(names) != classes:
        raise UserError(f"the data module names {len(names)} classes, and the model tells {classes} apart")
    return names or range(classes)


def _batches(
    data: LightningDataModule, pictures: Pictures, refused: dict[str, str]
) -> Iterator[tuple[list[str], Tensor]]:
    """The pictures that can be read, with their names; those that cannot go into `refused`."""
    names: list[str] = []
    batch: list[Tensor] = []
    for name, image in with_progress(_images(data, pictures), len(pictures)):
        if isinstance(image, str):
            refused[name] = image
        else:
            names.append(name)
            batch.append(image)
        if len(batch) == BATCH:
            yield names, torch.stack(batch)
            names, batch = [], []
    if batch:
        yield names, torch.stack(batch)


def _images(data: Any, pictures: Pictures) -> Iterator[tuple[str, Tensor | str]]:
    """Each picture as it is in a batch of the data module's, or what is wrong with it."""

    def image(name: str) -> Tensor | str:
        try:
            read_picture: Tensor = data.read_picture(read(pictures[name], getattr(data, "max_value", None)))
        except UserError as error:
            return str(error)
        return read_picture

    def images(names: Sequence[str]) -> list[tuple[str, Tensor | str]]:
        return [(name, image(name)) for name in names]

    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes and resizes without holding up the other threads
        reading: Iterable[list[tuple[str, Tensor | str]]] = ()
        for batch in _slices(list(pictures), BATCH):
            last, reading = reading, pool.map(images, _slices(batch, CHUNK))  # which begins, while the last is computed
            yield from chain.from_iterable(last)
        yield from chain.from_iterable(reading)


def _slices(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (names[start : start + size] for start in range(0, len(names), size))


def with_progress(steps: Iterable[Any], total: int | None) -> Iterable[Any]:
    """The steps, with a progress bar that vanishes, on a terminal."""
    console = Console(stderr=True)
    return track(steps, "", total, console=console, transient=True, disable=not console.is_terminal)


def _answers(names: Sequence[str], probabilities: Tensor, known: Sequence[Label]) -> Iterator[Answer]:
    best = probabilities.topk(2)
    for name, values, (first, second) in zip(names, best.values.tolist(), best.indices.tolist(), strict=True):
        yield Answer(name, known[first], values[0], known[second], values[1])


def report(predictions: Predictions, form: Literal["table", "json", "csv"], drawing: Path | None) -> int:
    """Print the answers, draw the pictures if asked to, and say which files could not be read; the exit code.

    Raises:
        UserError: the drawing cannot be written.
    """
    for file, reason in predictions.refused.items():
        say(f"predict: {one_line(f'{file}: {reason}')}", sys.stderr)
    if not predictions.answers:
        return 2
    print_document({"table": _as_table, "json": _as_json, "csv": _as_csv}[form](predictions))
    if drawing is not None:
        _draw(predictions, drawing)
    return 1 if predictions.refused else 0


def _as_table(predictions: Predictions) -> str:
    rows = [("file", visible(predictions.word), "probability", "runner-up", "its probability")]
    for one in predictions.answers:
        chances = (f"{one.probability:.1%}", f"{one.runner_up_probability:.1%}")
        rows.append((one_line(one.file), visible(str(one.label)), chances[0], visible(str(one.runner_up)), chances[1]))
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]

    def line(file: str, *others: str) -> str:
        right = (" " * (width - cell_len(cell)) + cell for cell, width in zip(others, widths[1:], strict=True))
        return "  ".join([file + " " * (widths[0] - cell_len(file)), *right])

    return "\n".join(line(*row) for row in rows)


def _as_json(predictions: Predictions) -> str:
    return json.dumps(list(predictions.rows()), indent=2)


def _as_csv(predictions: Predictions) -> str:
    rows = list(predictions.rows())
    return csv_text([list(rows[0]), *(list(row.values()) for row in rows)])


def _draw(predictions: Predictions, file: Path) -> None:
    """Draw what the network sees, each picture with its answer above it."""
    shown = predictions.answers[: len(predictions.images)]
    captions = [f"{answer.label}\n{answer.probability:.0%}" for answer in shown]
    title = f"what the network sees, its {predictions.word}, and with which probability"
    figure = tiles(colours(predictions.images), captions, title, max(4, math.isqrt(len(shown))))
    try:
        with replacing(file) as aside:
            figure.savefig(aside, format="png")
    except OSError as error:
        raise UserError(f"show={file} cannot be written: {error.strerror}") from error
    of_all = f", the first {len(shown)} of {len(predictions.answers)}" if len(shown) < len(predictions.answers) else ""
    say(f"predict: drawn in {file}{of_all}", sys.stderr)
