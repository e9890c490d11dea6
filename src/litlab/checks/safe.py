"""Is it safe: can what was trained be read, exported and used?"""

import contextlib
import io

import torch

from litlab.checks.subject import Subject
from litlab.checks.verdict import Verdict, check, failed, passed, skipped
from litlab.errors import UserError, VerificationError
from litlab.inference.export import export
from litlab.messages import first_lines


@check("safe", "checkpoint", "does a checkpoint hold data alone?")
def checkpoint_is_data(subject: Subject) -> Verdict:
    """Tensors and plain values, which torch reads without building anything."""
    file = subject.whole.folder / "checkpoints" / "last.ckpt"
    try:
        torch.load(file, weights_only=True)
    except Exception as error:
        advice = "put tensors, numbers, texts, lists and dictionaries into on_save_checkpoint and state_dict"
        return failed(first_lines(error), advice)
    return passed(f"{file.stat().st_size / 2**20:.1f} MiB, read with weights_only=True")


@check("safe", "export", "does an exported model answer the same?")
def export_answers_the_same(subject: Subject) -> Verdict:
    """By torch.export, on the test examples."""
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
