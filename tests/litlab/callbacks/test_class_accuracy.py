import torch
from conftest import settings, train

from litlab.inference.evaluate import evaluate
from litlab.runs.checkpoint import load_weights
from litlab.training.build import build_module

CPU = ("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.limit_val_batches=1", "views=none")


def test_it_is_the_accuracy_of_each_class_on_the_test_set(mnist_dir, test_set, tmp_path):
    config = settings(*CPU, "trainer.max_steps=100", "trainer.max_epochs=1")
    run = train(config, tmp_path)
    module = build_module(config)
    load_weights(module, run.best_checkpoint())
    images, labels = test_set
    with torch.no_grad():
        answers = torch.cat([module(part / 255).argmax(1) for part in images.split(500)])
    expected = {str(digit): (answers[labels == digit] == digit).double().mean().item() for digit in range(10)}
    assert run.record.metrics.test_by_class == expected
    (tmp_path / "again").mkdir()
    again = evaluate(config, run.best_checkpoint(), "cpu", None, tmp_path / "again")
    assert again.record.metrics.test_by_class == run.record.metrics.test_by_class
