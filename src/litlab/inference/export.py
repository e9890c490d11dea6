"""One file that answers as a run's model does, without this project."""

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor, nn

from litlab.callbacks.predictions import features_of
from litlab.config import schema
from litlab.console import say
from litlab.distributed.hardware import use_all_cores
from litlab.errors import UserError, VerificationError
from litlab.files import replacing
from litlab.inference.predict import as_batch, labels, with_progress
from litlab.messages import first_lines
from litlab.runs.run import Run
from litlab.training.restore import restored

Format = Literal["onnx", "torch_export", "safetensors"]

EXTENSIONS: dict[Format, str] = {"onnx": "onnx", "torch_export": "pt2", "safetensors": "safetensors"}

RANDOM_IMAGES = 64
"""Images that an exported model is tried on where the test images cannot be had."""

CLOSE = 1e-4
"""How far an output may be from the model's own."""

ANY_BATCH = ({0: torch.export.Dim("batch")},)
"""Which dimensions of the input may vary."""

Answers = Callable[[Tensor], Sequence[Tensor]]
"""Gives probabilities (N, classes) of pixels, and features (N, …) where the model has them."""


class Answering(nn.Module):
    """The model with everything that comes before and after it: pixels as they are stored, in; probabilities, out."""

    def __init__(self, data: LightningDataModule, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.data = data
        self.features = features_of(module)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Images (N, channels, height, width), as in a batch of the data module's, to probabilities and features."""
        images = as_batch(self.data, pixels)
        probabilities = self.module(images).softmax(1)
        return (probabilities,) if self.features is None else (probabilities, self.features(images).flatten(1))


@torch.no_grad()
def export(run: Run, trained: schema.Train, checkpoint: Path, form: Format, file: Path | None) -> Path:
    """Write the model with the weights in `checkpoint` into a file, and make sure that it answers the same.

    It is tried on the test images or, where they cannot be had, on random ones.

    Args:
        run: the run.
        trained: its config.
        checkpoint: the weights.
        form: the format.
        file: where to; None for `export/model` in the run's folder.

    Raises:
        UserError: the checkpoint is damaged or of another network, the model is not a classifier or cannot be exported,
            or the file cannot be written.
        VerificationError: what was written answers the test images otherwise; it was removed.
    """
    use_all_cores()
    data, module = restored(trained, checkpoint)
    answering = Answering(data, module).eval().requires_grad_(False)
    answering.to(memory_format=torch.contiguous_format)  # as files store weights
    tests, no_tests = _tests(data)
    pixels = _checked(next(iter(tests)))[0][:2]
    known = labels(data, answering(pixels)[0])
    place = file or run.folder / "export" / f"model.{EXTENSIONS[form]}"
    metadata = _identity(run, checkpoint) | {
        "labels": "\n".join(map(str, known)),
        "input": f"{str(pixels.dtype).removeprefix('torch.')} (N, {', '.join(map(str, pixels.shape[1:]))})",
        "model": json.dumps(trained.model),
        "data": json.dumps(trained.data),
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as aside:
            written = _written(form, answering, pixels, metadata, aside)
            images, right, difference = _verify(answering, written, tests)
    except OSError as error:
        raise UserError(f"file={place} cannot be written: {error.strerror}") from error
    if no_tests is None:
        told = f"{right} of {images} test images right, as the run's model; outputs within {difference:.1g} of its"
    else:
        told = f"outputs within {difference:.1g} of the run's model's on {images} random images, as {no_tests}"
    say(f"{place}: {told}")
    return place


def _tests(data: LightningDataModule) -> tuple[Any, str | None]:
    """Batches of test images and labels; if they cannot be had, a batch of random images, and why.

    Raises:
        UserError: they cannot be had, and the data module cannot read pictures, so that nobody knows the images' size.
    """
    try:
        data.prepare_data()
        data.setup("test")
        return data.test_dataloader(), None
    except UserError as error:
        read_picture: Callable[[Image.Image], Tensor] | None = getattr(data, "read_picture", None)
        if read_picture is None:
            raise
        example = read_picture(_stroke())
        random = torch.rand(RANDOM_IMAGES, *example.shape, generator=torch.Generator().manual_seed(0))
        pixels = random if example.is_floating_point() else (random * 256).to(example.dtype)
        return [(pixels, torch.zeros(RANDOM_IMAGES, dtype=torch.int64))], first_lines(error)


def _stroke() -> Image.Image:
    """A picture that any data module can read: a dark stroke on white."""
    picture = Image.new("L", (64, 64), "white")
    picture.paste(0, (28, 8, 36, 56))
    return picture


def _checked(batch: Any) -> tuple[Tensor, Tensor]:
    """A batch of images and labels.

    Raises:
        UserError: it is something else.
    """
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
    if not (is_pair and batch[0].ndim == 4 and batch[1].ndim == 1 and batch[1].dtype == torch.int64):
        raise UserError("only a classifier can be exported, whose batches are images (N, …) and labels (N,)")
    return batch[0], batch[1]


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


def _written(form: Format, answering: Answering, pixels: Tensor, metadata: Mapping[str, str], file: Path) -> Answers:
    """Write the file; what answers by that file alone.

    Raises:
        UserError: the model cannot be written in this format, and why.
    """
    try:
        return WRITERS[form](answering, pixels, metadata, file)
    except (UserError, OSError):
        raise
    except Exception as error:  # what a compiler says of a model has many types
        raise UserError(f"format={form}: the model cannot be exported: {first_lines(error)}") from error


def _verify(own: Answers, written: Answers, tests: Any) -> tuple[int, int, float]:
    """How many test images there are, how many are recognised, and how far outputs are apart at most.

    Raises:
        VerificationError: what was written recognises another number, or its outputs are too far from the model's own.
    """
    images, right, right_written = 0, 0, 0
    apart: list[Tensor] = []
    for batch in with_progress(tests, len(tests)):
        pixels, truth = _checked(batch)
        ours, theirs = own(pixels), _answers(written, pixels)
        images += len(truth)
        right += int((ours[0].argmax(1) == truth).sum())
        right_written += int((theirs[0].argmax(1) == truth).sum())
        apart += [(mine - its).abs().max() for mine, its in zip(ours, theirs, strict=True)]
    difference = float(torch.stack(apart).max())
    if right_written != right or not difference <= CLOSE:  # nor if it is not a number
        raise VerificationError(
            f"what was written does not answer as the run's model: of {images} test images {right_written} are right, "
            f"not {right}, and outputs differ by up to {difference:.2g}; it was removed"
        )
    return images, right, difference


def _answers(written: Answers, pixels: Tensor) -> Sequence[Tensor]:
    try:
        return written(pixels)
    except Exception as error:  # of whatever runs it
        raise VerificationError(f"what was written fails and was removed: {first_lines(error)}") from error


def _write_onnx(answering: Answering, pixels: Tensor, metadata: Mapping[str, str], file: Path) -> Answers:
    import onnxruntime

    names = ["probabilities", "features"][: len(answering(pixels))]
    graph = torch.export.export(answering, (pixels,), dynamic_shapes=ANY_BATCH)
    program: Any = torch.onnx.export(graph, input_names=["pixels"], output_names=names, verbose=False)
    program.model.metadata_props.update(metadata)
    program.save(file, external_data=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda pixels: [torch.from_numpy(output) for output in session.run(None, {"pixels": pixels.numpy()})]


def _write_torch_export(answering: Answering, pixels: Tensor, metadata: Mapping[str, str], file: Path) -> Answers:
    program = torch.export.export(answering, (pixels,), dynamic_shapes=ANY_BATCH)
    written = io.BytesIO()  # a file would need the extension .pt2
    torch.export.save(program, written, extra_files={"metadata.json": json.dumps(metadata)})
    file.write_bytes(written.getvalue())
    return torch.export.load(io.BytesIO(file.read_bytes())).module()


def _write_safetensors(answering: Answering, _: Tensor, metadata: Mapping[str, str], file: Path) -> Answers:
    from safetensors.torch import load, save

    net = getattr(answering.module, "net", None)
    if not isinstance(net, nn.Module):
        raise UserError("format=safetensors: holds the weights of the network, and the model has none as self.net")
    weights = {name: weight.clone() for name, weight in net.state_dict().items()}  # those that are shared, too
    file.write_bytes(save(weights, dict(metadata)))
    anew = deepcopy(net)
    anew.load_state_dict(load(file.read_bytes()))
    return Answering(answering.data, anew).eval()


WRITERS: dict[Format, Callable[[Answering, Tensor, Mapping[str, str], Path], Answers]] = {
    "onnx": _write_onnx,
    "torch_export": _write_torch_export,
    "safetensors": _write_safetensors,
}
"""What writes a file, and gives what answers by that file alone."""
