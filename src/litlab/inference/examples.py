"""A table with a row for each example: what a model was asked, and what it answered."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from litlab.callbacks.predictions import OutputCallback, Predicted, class_names, classified
from litlab.errors import UserError
from litlab.files import replacing

MOST_VALUES = 1000
"""Values of an example in one output that are columns; larger outputs, such as images, are left out."""


@contextmanager
def writing_examples(file: Path) -> Iterator["ExampleWriter"]:
    """Write a CSV file by a callback; it takes its place when all is done, and an older file stays if that fails.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
            yield ExampleWriter(stream)
    except OSError as error:
        raise UserError(f"output={file} cannot be written: {error.strerror}") from error


class ExampleWriter(OutputCallback):
    """Writes a row for each example that `validation_step` or `test_step` returns outputs of.

    Columns are `loader` (index of the dataloader), `example` (from 0, in the order of that loader) and the outputs by
    their keys, those of several values as `KEY/0`, `KEY/1` …. Of a classifier, classes have the data module's
    `class_names`, and there are `predicted` and its `probability`.

    Args:
        stream: where the rows go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._rows = csv.writer(stream, lineterminator="\n")
        self._header: list[str] | None = None
        self._seen = dict[int, int]()

    @override
    def on_outputs(self, trainer: Trainer, module: LightningModule, outputs: Any, dataloader_idx: int) -> None:
        step = "test_step" if trainer.testing else "validation_step"
        columns = _columns(trainer, outputs)
        if not columns:
            told = "returns no tensors by name with a value for each example, such as scores and targets"
            raise UserError(f"output=FILE: {step} of {type(module).__name__} {told}")
        header = ["loader", "example", *columns]
        if self._header is None:
            self._header = header
            self._rows.writerow(header)
        elif header != self._header:
            raise UserError(f"output=FILE: {step} returns other outputs than before: {', '.join(columns)}")
        first = self._seen.get(dataloader_idx, 0)
        rows = list(zip(*columns.values(), strict=True))
        self._rows.writerows([dataloader_idx, first + index, *row] for index, row in enumerate(rows))
        self._seen[dataloader_idx] = first + len(rows)


def _columns(trainer: Trainer, outputs: Any) -> dict[str, Sequence[Any]]:
    """Return the values of all examples of a batch, by the names of the columns."""
    tensors = {key: value for key, value in _named(outputs) if isinstance(value, Tensor) and value.ndim}
    lead = next((tensors[key] for key in ("targets", "scores", "preds") if key in tensors), None)
    if lead is None:
        return {}
    told = {
        key: value.detach().cpu().flatten(1) if value.ndim > 1 else value.detach().cpu()
        for key, value in tensors.items()
        if len(value) == len(lead) and key != "inputs" and value[:1].numel() <= MOST_VALUES
    }
    if classified(outputs) is None:
        return dict(_spread((key, value, range(value[:1].numel())) for key, value in told.items()))
    return _of_classes(told, class_names(trainer, told["scores"].shape[1]))


def _of_classes(told: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Return the columns of a classifier: classes by name; targets that do not count, and no class, as numbers."""

    def named(classes: Tensor) -> list[str]:
        return [names[index] if index >= 0 else str(index) for index in classes.tolist()]

    answer = Predicted(told["scores"].float(), told["targets"].long(), None)
    others = ((key, told[key], names if key == "scores" else range(told[key][:1].numel())) for key in told)
    return {
        "targets": named(answer.targets),
        "predicted": named(answer.classes),
        "probability": answer.probabilities.amax(1).tolist(),
        **dict(_spread(other for other in others if other[0] != "targets")),
    }


def _spread(outputs: Iterable[tuple[str, Tensor, Sequence[Any]]]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield a column for each value of an output."""
    for key, value, names in outputs:
        if value.ndim == 1:
            yield key, value.tolist()
        else:
            yield from ((f"{key}/{name}", column.tolist()) for name, column in zip(names, value.unbind(1), strict=True))


def _named(outputs: Any) -> Iterable[tuple[Any, Any]]:
    return outputs.items() if isinstance(outputs, Mapping) else ()
