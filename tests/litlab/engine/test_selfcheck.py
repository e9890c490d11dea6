import logging

import pytest
import torch
from runs import PLAIN, TEN, Regularized, fit, graphs, said
from tape import Tape
from torch import Tensor
from torch.utils._pytree import tree_leaves

from digits.classifier import Classifier
from litlab.engine.graphs.selfcheck import Outcome, Snapshot, Tolerance
from litlab.engine.logged import LoggedValues

pytestmark = pytest.mark.usefixtures("mnist_dir")

aten = torch.ops.aten


class Faulty(Tape):
    """Does something else than it has recorded, from this replay on; the first is number 1."""

    wrong_from = 1

    def repeat(self, operation, args, kwargs, result):
        return (
            self.wrong(operation, args, kwargs, result)
            if self.replays >= self.wrong_from
            else operation(*args, **kwargs)
        )


class LeavesOut(Faulty):
    """Leaves one parameter as it is."""

    def wrong(self, operation, args, kwargs, result):
        is_optimizer = "adamw" in operation._schema.name
        before = args[0][0].clone() if is_optimizer else None
        again = operation(*args, **kwargs)
        if is_optimizer:
            args[0][0].copy_(before)
        return again


class Frozen(Faulty):
    """Has drawn its random numbers once and for all."""

    def wrong(self, operation, args, kwargs, result):
        drawn = "rand" in operation._schema.name or "bernoulli" in operation._schema.name
        return result if drawn else operation(*args, **kwargs)


class LogsTheSame(Faulty):
    """Computes the loss once and for all, though not what follows from it."""

    def wrong(self, operation, args, kwargs, result):
        again = operation(*args, **kwargs)
        return result if operation is aten.stack.default else again


@pytest.mark.parametrize(
    ("faulty", "settings", "wrong", "replay"),
    [
        (LeavesOut, PLAIN, "the change of the weights is ", 1),
        (Frozen, [*PLAIN, "augment=affine"], "the step draws another number of random numbers", 1),
        (LogsTheSame, PLAIN, "train/loss is ", 2),  # in the first replay they are right
    ],
)
def test_a_graph_that_is_wrong_never_touches_the_training(
    tmp_path, tape, eager, caplog, monkeypatch, faulty, settings, wrong, replay
):
    monkeypatch.setattr("litlab.engine.graphs.optimization.CudaGraph", faulty)
    expected = eager(tmp_path, *settings)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *settings, steps=7)
    (message,) = said(caplog)
    assert message.startswith(f"no CUDA graph: it would do something else than step {2 + replay}: {wrong}")
    assert (graphs(tried).replayed, graphs(tried).checked) == (0, replay)
    assert torch.equal(tried.weights(), expected.weights())
    assert tried.curves.points == expected.curves.points


def test_a_step_that_writes_to_its_batch_is_repeated_with_the_same(tmp_path, tape, eager, caplog, monkeypatch):
    class InPlace(Classifier):
        def training_step(self, batch, batch_idx):
            batch[0].mul_(0.5)
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr("litlab.engine.graphs.optimization.CudaGraph", LeavesOut)
    expected = eager(tmp_path, *PLAIN, module_class=InPlace)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *PLAIN, module_class=InPlace, steps=7)
    (message,) = said(caplog)
    assert message.startswith("no CUDA graph: it would do something else than step 3: the change of the weights is ")
    assert torch.equal(tried.weights(), expected.weights())


@pytest.mark.parametrize(("wrong_from", "good", "found"), [(3, 4, 6), (5, 6, 10)])
def test_a_graph_that_becomes_wrong_is_told_with_the_steps_that_it_may_have_spoilt(
    tmp_path, tape, caplog, monkeypatch, wrong_from, good, found
):
    monkeypatch.setattr("litlab.engine.graphs.optimization.CudaGraph", LeavesOut)
    monkeypatch.setattr(LeavesOut, "wrong_from", wrong_from)
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *PLAIN, steps=7)
    first, second = [record for record in caplog.records if "graph" in record.message]
    assert first.message.startswith(
        f"no CUDA graph: it does something else than step {found}: the change of the weights"
    )
    assert second.message == f"the steps {good + 1} to {found - 1} were done by that graph and may be wrong"
    assert {first.levelno, second.levelno} == {logging.WARNING}
    assert graphs(tried).obstacle.startswith(f"it does something else than step {found}")


def test_a_step_that_cannot_be_repeated_is_said_and_keeps_its_graph(tmp_path, tape, caplog):
    noise = torch.Generator()

    class Noisy(Classifier):
        """Computes on a device that adds up in another order each time, and very badly."""

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * torch.rand((), generator=noise).add(0.5)

    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *PLAIN, module_class=Noisy, steps=7)
    assert said(caplog) == ["a step gives other numbers when it is repeated, so its CUDA graph cannot be checked"]
    assert graphs(tried).replayed + graphs(tried).checked == 15


def test_a_snapshot_holds_all_that_a_step_changes(tmp_path, tape):
    done = fit(tmp_path, *TEN, steps=7)
    trainer, optimizer = done.trainer, done.trainer.optimizers[0]
    average = next(callback for callback in trainer.callbacks if type(callback).__name__ == "EMA")._average_model
    kept = [*done.module.parameters(), *average.parameters(), *average.buffers(),
            *(leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor))]  # fmt: skip
    snapshot = Snapshot(trainer, optimizer, torch.default_generator)
    before, drawn = [tensor.detach().clone() for tensor in kept], torch.get_rng_state()
    with torch.no_grad():
        for tensor in kept:
            tensor.add_(1)
    torch.rand(1)
    snapshot.restore()
    assert all(torch.equal(tensor, old) for tensor, old in zip(kept, before, strict=True))
    assert torch.equal(torch.get_rng_state(), drawn)


def outcome(loss=1.0, accuracy=0.9, update=1.0, offset=0):
    values = torch.tensor([accuracy, loss])
    updates = [torch.full((10,), 0.1), torch.full((2, 2), update)]
    return Outcome(LoggedValues({}, {}, ("train/acc", ""), values), updates, torch.tensor([offset]))


@pytest.mark.parametrize(
    ("other", "precision", "told"),
    [
        (outcome(), "32-true", None),
        (outcome(loss=1.0005), "32-true", None),
        (outcome(loss=1.01), "32-true", "the loss is 1.01 instead of 1"),
        (outcome(loss=1.01), "bf16-mixed", None),
        (outcome(loss=1.05), "bf16-mixed", "the loss is 1.05 instead of 1"),
        (outcome(loss=float("nan")), "32-true", "the loss is nan instead of 1"),
        (outcome(accuracy=0.92), "32-true", None),  # one of 50 examples
        (outcome(accuracy=0.8), "32-true", "train/acc is 0.8 instead of 0.9"),
        (outcome(update=1.05), "32-true", None),
        (outcome(update=1.2), "32-true", "the change of the weights is 20% off"),
        (outcome(update=1.2), "bf16-mixed", None),
        (outcome(update=float("nan")), "32-true", "the change of the weights is nan% off"),
        (outcome(offset=4), "32-true", "the step draws another number of random numbers"),
    ],
)
def test_what_a_gpu_may_round_otherwise_is_no_difference(other, precision, told):
    assert other.difference(outcome(), Tolerance.of(precision), 50) == told


def test_buffers_are_part_of_the_check(tmp_path, tape, eager, monkeypatch):
    settings = [*PLAIN, "trainer.max_epochs=1"]
    expected = eager(tmp_path, *settings, module_class=Regularized)
    tried = fit(tmp_path, *settings, module_class=Regularized, steps=7)
    assert torch.equal(tried.module.norm.running_mean, expected.module.norm.running_mean)
    assert tried.module.norm.num_batches_tracked == 10
