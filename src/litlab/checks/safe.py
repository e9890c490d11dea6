"""Checks of the trained model: can it be loaded, used for prediction and exported?"""

import contextlib
import io
from typing import Any

import torch
from torch import Tensor

from litlab.checks.subject import Subject, batches, difference, inputs_of, only_loader
from litlab.checks.verdict import Verdict, check, failed, passed, skipped
from litlab.errors import UserError, VerificationError
from litlab.inference.export import export
from litlab.messages import first_lines
from litlab.training.build import Training


@check("safe", "checkpoint", "does a checkpoint hold data alone?")
def checkpoint_is_data(subject: Subject) -> Verdict:
    """Load a checkpoint with weights_only=True."""
    file = subject.whole.folder / "checkpoints" / "last.ckpt"
    try:
        torch.load(file, weights_only=True)
    except Exception as error:
        advice = "put tensors, numbers, texts, lists and dictionaries into on_save_checkpoint and state_dict"
        return failed(first_lines(error), advice)
    return passed(f"{file.stat().st_size / 2**20:.1f} MiB, read with weights_only=True")


@check("safe", "predict", "is the answer to an example the same alone as in a batch?")
def answers_are_of_one(subject: Subject) -> Verdict:
    """Compare the output for one example alone with its output in a batch, in eval mode."""
    training = subject.built()
    inputs = _transferred(training, batches(only_loader(training, "train_dataloader"), 1)[0])
    module = training.module.eval()
    with torch.no_grad():
        try:
            whole, single = module(inputs), module(inputs[:1])
        except Exception as error:
            return skipped(f"forward does not take a batch's inputs: {type(error).__name__}")
    if not (isinstance(whole, Tensor) and isinstance(single, Tensor) and whole.shape[1:] == single.shape[1:]):
        return skipped("forward does not give an answer for each example")
    if told := difference(whole[:1], single, tolerance=1e-3):
        return failed(f"the answer to an example alone is another: {told}", "normalize by running statistics in eval()")
    return passed(f"{tuple(single.shape)} for one example")


def _transferred(training: Training, batch: Any) -> Tensor:
    """Return the inputs as training_step gets them."""
    module = training.module
    hooked = training.data.on_after_batch_transfer(batch, 0)
    return inputs_of(hooked).to(module.device)


@check("safe", "export", "does an exported model answer the same?")
def export_answers_the_same(subject: Subject) -> Verdict:
    """Export by torch.export, and compare the outputs on the test examples, or on others where there are none."""
    run = subject.whole
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            file = run.folder / "model.pt2"
            export(run, subject.settings(), run.folder / "checkpoints" / "last.ckpt", "torch_export", file)
    except VerificationError as error:
        return failed(str(error), "see what forward does with the batch size, or draws at random")
    except UserError as error:
        return skipped(str(error).splitlines()[0])
    return passed(f"{file.stat().st_size / 2**20:.1f} MiB")
