import copy
import logging

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from runs import PLAIN, Regularized, fit, graphs, said

from digits.classifier import Classifier

pytestmark = pytest.mark.usefixtures("mnist_dir")


class AfterEpoch(Callback):
    """Does something to the module after the first epoch; as one of the lab's own, it has no hook for each step."""

    def __init__(self, change):
        self.change = change

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self.change(trainer, pl_module)


def replaced(trainer, module):
    module.net.out.weight.data = module.net.out.weight.data.clone()


def reloaded(trainer, module):
    trainer.optimizers[0].load_state_dict(copy.deepcopy(trainer.optimizers[0].state_dict()))


class Weighted(Regularized):
    """Has a layer that can be frozen, and a loss with a weight."""

    weight = 1.0

    def training_step(self, batch, batch_idx):
        return self.weight * super().training_step(batch, batch_idx)


CHANGES = {
    "net.conv1.0.weight.requires_grad": lambda trainer, module: module.net.conv1.requires_grad_(False),
    "drop.training": lambda trainer, module: module.drop.eval(),
    "norm.training": lambda trainer, module: module.norm.eval(),
    "net.out.weight": replaced,
    "the optimizer's step of net.conv1.0.weight": reloaded,
    "trainer.gradient_clip_val": lambda trainer, module: setattr(trainer, "gradient_clip_val", 0.05),
    "the optimizer's weight_decay (group 0)": lambda trainer, module: (
        trainer.optimizers[0].param_groups[0].update(weight_decay=0.1)
    ),
    "net._forward_hooks": lambda trainer, module: module.net.register_forward_hook(lambda net, given, out: 2 * out),
    "drop.p": lambda trainer, module: setattr(module.drop, "p", 0.1),
    "self.weight": lambda trainer, module: setattr(module, "weight", 3.0),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_what_changes_after_the_capture_is_captured_again(tmp_path, tape, eager, caplog, changed):
    settings = [*PLAIN, "trainer.max_epochs=2"]
    expected = eager(tmp_path, *settings, module_class=Weighted, callbacks=[AfterEpoch(CHANGES[changed])])
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *settings, module_class=Weighted, callbacks=[AfterEpoch(CHANGES[changed])], steps=7)
    assert said(caplog) == [f"the CUDA graph is captured again: {changed} has changed"]
    assert [made.is_released for made in tape if made.is_captured] == [True, True]
    assert torch.equal(tried.weights(), expected.weights())
    assert tried.curves.points == expected.curves.points


def test_gradients_that_are_accumulated_from_an_epoch_on_are_left_to_lightning(tmp_path, tape, eager, caplog):
    settings = [*PLAIN, "data.batch_size=30"]
    expected = eager(tmp_path, *settings, callbacks=[GradientAccumulationScheduler({1: 2})])
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *settings, callbacks=[GradientAccumulationScheduler({1: 2})], steps=7)
    reason = "trainer.accumulate_grad_batches was changed on the way, by GradientAccumulationScheduler"
    assert graphs(tried).summary() == f"7 steps, of which 3 were checked; then none: {reason}"
    assert [made.is_released for made in tape if made.is_captured] == [True]
    assert tried.trainer.global_step == 10 + 5
    assert torch.equal(tried.weights(), expected.weights())


def test_groups_of_weights_may_be_empty_and_come_and_go(tmp_path, tape, eager):
    class Grouped(Classifier):
        def configure_optimizers(self):
            return torch.optim.AdamW([{"params": []}, {"params": self.parameters()}], fused=True)

    def trained(train, **options):
        change = AfterEpoch(lambda trainer, module: trainer.optimizers[0].param_groups.pop(0))
        return train(tmp_path, *PLAIN, module_class=Grouped, callbacks=[change], **options)

    own = trained(fit, steps=7)
    assert graphs(own).replayed > 0
    assert torch.equal(own.weights(), trained(eager).weights())


def test_a_layer_that_is_unfrozen_is_trained(tmp_path, tape, eager):
    class Frozen(Classifier):
        def configure_optimizers(self):
            self.net.conv1.requires_grad_(False)
            return super().configure_optimizers()

    def trained(train):
        thawing = AfterEpoch(lambda trainer, module: module.net.conv1.requires_grad_(True))
        return train(tmp_path, *PLAIN, module_class=Frozen, callbacks=[thawing])

    assert torch.equal(trained(lambda *arguments, **options: fit(*arguments, **options, steps=7)).weights(),
                       trained(eager).weights())  # fmt: skip
    assert sum(made.is_captured for made in tape) == 2
