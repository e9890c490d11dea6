"""One file that answers as a run's model does, without this project."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves

from litlab.config import schema
from litlab.console import say
from litlab.distributed.hardware import use_all_cores
from litlab.errors import UserError, VerificationError
from litlab.files import replacing
from litlab.inference.formats import EXTENSIONS, WRITERS, Answers, Format
from litlab.inference.predict import labels, with_progress
from litlab.inference.standalone import Standalone
from litlab.messages import first_lines
from litlab.runs.run import Run
from litlab.training.restore import restored

RANDOM_IMAGES = 64
"""Images that an exported model is tried on where the test images cannot be had."""

CLOSE = 1e-4
"""How far an output may be from the model's own."""

SOME_BATCHES = 16
"""Batches that are looked at for dimensions that vary, such as the length of texts."""


@torch.no_grad()
def export(run: Run, trained: schema.Train, checkpoint: Path, form: Format, file: Path | None) -> Path:
    """Write the model with the weights in `checkpoint` into a file, and make sure that it answers the same.

    It is tried on the test examples, or on the held-out or training ones where the data module has no others. Where
    pictures cannot be had, it is tried on random ones.

    Args:
        run: the run.
        trained: its config.
        checkpoint: the weights.
        form: the format.
        file: where to; None for `export/model` in the run's folder.

    Raises:
        UserError: the checkpoint is damaged or of another network, `forward` does not take the batches, the model
            cannot be exported, or the file cannot be written.
        VerificationError: what was written answers the examples otherwise; it was removed.
    """
    use_all_cores()
    data, module = restored(trained, checkpoint)
    module.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)  # as files store weights
    tests, of_tests, no_tests = _tests(data)
    if not (batches := list(islice(tests, SOME_BATCHES))):
        raise UserError(f"the data module has no {of_tests}, on which the file would be tried")
    model = _standalone(run, data, module, batches)
    place = file or run.folder / "export" / f"model.{EXTENSIONS[form]}"
    settings = {"model": json.dumps(trained.model), "data": json.dumps(trained.data)}
    metadata = _identity(run, checkpoint) | _interface(model) | settings
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as aside:
            written = _written(form, model, metadata, aside)
            told = _verify(model, written, tests, of_tests)
    except OSError as error:
        raise UserError(f"file={place} cannot be written: {error.strerror}") from error
    say(f"{place}: {told}{f', as {no_tests}' if no_tests else ''}")
    return place


def _standalone(run: Run, data: LightningDataModule, module: LightningModule, batches: list[Any]) -> Standalone:
    """Return the model with what comes before and after it.

    A classifier is what its `test_step` has returned as one; where nothing was tested, what answers by several numbers
    to an example with one class.
    """
    model, measured = Standalone(data, module, batches), run.record.metrics
    answer = model(*model.example)[0]
    is_classifier = bool(measured.test_by_class) if measured.test else _classes(model, batches[0]) is not None
    model.is_classifier = is_classifier and answer.ndim == 2 and answer.shape[1] > 1 and answer.is_floating_point()
    return model


def _classes(model: Standalone, batch: Any) -> Tensor | None:
    """Return the part of a batch that is a class for each example, besides the inputs; None if it is not clear."""
    inputs, parts = set(map(id, model.inputs(batch))), tree_leaves(batch)
    others = [part for part in parts if isinstance(part, Tensor) and id(part) not in inputs]
    found = [part for part in others if part.ndim == 1 and part.dtype == torch.int64]
    return found[0] if len(found) == 1 else None


def _interface(model: Standalone) -> dict[str, str]:
    """Describe the inputs, each by its type and shape, and name the classes."""
    told = []
    for name, value in zip(model.names, model.example, strict=True):
        shape = ", ".join(map(str, ("N", *value.shape[1:])))
        told.append(f"{name}: {str(value.dtype).removeprefix('torch.')} ({shape})")
    interface = {"input": "\n".join(told) if len(told) > 1 else told[0].partition(": ")[2]}
    if model.is_classifier:
        interface["labels"] = "\n".join(map(str, labels(model.data, model(*model.example)[0])))
    return interface


def _tests(data: LightningDataModule) -> tuple[Any, str, str | None]:
    """Return batches and what they are; if test images cannot be had, a batch of random ones, and why.

    Raises:
        UserError: they cannot be had, and the data module cannot read pictures, so that nobody knows the images' size.
    """
    splits = {"test": ("test", "test"), "val": ("fit", "validation"), "train": ("fit", "training")}
    split = next(split for split in splits if split == "train" or is_overridden(f"{split}_dataloader", data))
    stage, told = splits[split]
    has_pictures = hasattr(data, "read_picture")
    try:
        data.prepare_data()
        data.setup(stage)
        loader = getattr(data, f"{split}_dataloader")()
    except UserError as error:
        if not has_pictures:
            raise
        example = data.read_picture(_stroke())  # type: ignore[attr-defined]
        random = torch.rand(RANDOM_IMAGES, *example.shape, generator=torch.Generator().manual_seed(0))
        pixels = random if example.is_floating_point() else (random * 256).to(example.dtype)
        return [(pixels, torch.zeros(RANDOM_IMAGES, dtype=torch.int64))], "random images", first_lines(error)
    loader = loader[0] if isinstance(loader, list | tuple) and loader else loader
    return loader, f"{told} {'images' if has_pictures else 'examples'}", None


def _stroke() -> Image.Image:
    """A picture that any data module can read: a dark stroke on white."""
    picture = Image.new("L", (64, 64), "white")
    picture.paste(0, (28, 8, 36, 56))
    return picture


def _identity(run: Run, checkpoint: Path) -> dict[str, str]:
    """Which run's the model is, in words."""
    record = run.record
    measured = record.metrics.best | record.metrics.test
    return {
        "run": run.folder.name,
        "checkpoint": checkpoint.name,
        "command": record.command,
        "seed": str(record.seed),
        "commit": f"{record.git.commit}{', with changes' if record.git.dirty else ''}" if record.git else "unknown",
        "metrics": json.dumps({name: value for name, value in measured.items() if math.isfinite(value)}),
    }


def _written(form: Format, model: Standalone, metadata: Mapping[str, str], file: Path) -> Answers:
    """Write the file; what answers by that file alone.

    Raises:
        UserError: the model cannot be written in this format, and why.
    """
    try:
        return WRITERS[form](model, metadata, file)
    except (UserError, OSError):
        raise
    except Exception as error:  # what a compiler says of a model has many types
        raise UserError(f"format={form}: the model cannot be exported: {first_lines(error)}") from error


def _verify(model: Standalone, written: Answers, tests: Any, told: str) -> str:
    """Compare the answers to all examples; in words, how many there were, and how far outputs are apart at most.

    Raises:
        VerificationError: what was written recognises another number of examples, or its outputs are too far off.
    """
    examples, judged, right, right_written = 0, 0, 0, 0
    apart: list[Tensor] = []
    for batch in with_progress(tests, sized_len(tests)):
        inputs = model.inputs(batch)
        ours, theirs = model(*inputs), _answers(written, inputs)
        examples += len(inputs[0])
        if model.is_classifier and (truth := _classes(model, batch)) is not None:
            judged += len(truth)
            right += int((ours[0].argmax(1) == truth).sum())
            right_written += int((theirs[0].argmax(1) == truth).sum())
        apart += [_distance(mine, its) for mine, its in zip(ours, theirs, strict=True)]
    difference = float(torch.stack(apart).max())
    if right_written != right or not difference <= CLOSE:  # nor if it is not a number
        recognised = f"of {judged} {told} {right_written} are right, not {right}, and " if judged else ""
        raise VerificationError(
            f"what was written does not answer as the run's model: {recognised}outputs differ "
            f"by up to {difference:.2g}; it was removed"
        )
    if judged == examples and not told.startswith("random"):
        return f"{right} of {examples} {told} right, as the run's model; outputs within {difference:.1g} of its"
    return f"outputs within {difference:.1g} of the run's model's on {examples} {told}"


def _distance(own: Tensor, written: Tensor) -> Tensor:
    """Return how far outputs are apart at most, as a share of the largest where that is more than 1."""
    own, written = own.double(), written.double()
    return (own - written).abs().max() / own.abs().max().clamp(min=1)


def _answers(written: Answers, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    try:
        return written(*inputs)
    except Exception as error:  # of whatever runs it
        raise VerificationError(f"what was written fails and was removed: {first_lines(error)}") from error
