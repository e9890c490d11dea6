"""What is no classifier of pictures is evaluated and exported, too."""

import csv

import onnxruntime
import other_tasks
import pytest
import torch
from conftest import settings_of, train
from safetensors.torch import load_file

from litlab.errors import UserError
from litlab.inference.evaluate import evaluate
from litlab.inference.export import export
from litlab.training.restore import restored


def of(module, data, package="other_tasks"):
    return settings_of(
        f"{package}.{module}", f"{package}.{data}", "val_loss",
        "trainer.max_epochs=1", "trainer.precision=32-true", "views=none", "logger=none",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each task, with its settings and its module."""
    folder, runs = tmp_path_factory.mktemp("tasks"), {}
    for module, data in other_tasks.TASKS.items():
        config = of(module, data)
        run = train(config, folder / module)
        runs[module] = run, config, restored(config, run.best_checkpoint())[1].eval()
    return runs


ROWS = 100 + 20 * other_tasks.drawn(5, 3, seed=3)
TOKENS = torch.arange(40).reshape(5, 8)
PICTURES = other_tasks.drawn(5, 3, 8, 8, seed=3)
LEFT, RIGHT = other_tasks.drawn(5, 4, seed=3), other_tasks.drawn(5, 2, seed=4)

EXPORTED = {
    "Regression": ({"rows": ROWS}, ["output"], lambda model: [model((ROWS - 100) / 20)]),
    "TextClassifier": ({"tokens": TOKENS}, ["probabilities"], lambda model: [model(TOKENS).softmax(1)]),
    "Segmentation": ({"pictures": PICTURES}, ["output"], lambda model: [model(PICTURES)]),
    "TwoInputs": ({"left": LEFT, "right": RIGHT}, ["mean", "all"], lambda model: list(model(LEFT, RIGHT).values())),
}
"""Of each task: inputs as they are in the data, the names of the outputs, and what the module answers."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of onnxscript
@pytest.mark.parametrize("task", EXPORTED)
def test_a_file_answers_any_number_of_examples_by_the_names_of_forward(trained, task, capsys):
    run, config, module = trained[task]
    inputs, outputs, answer = EXPORTED[task]
    with torch.no_grad():
        own = answer(module)
    file = export(run, config, run.best_checkpoint(), "onnx", None)
    session = onnxruntime.InferenceSession(file)
    assert ([one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]) == (
        list(inputs),
        outputs,
    )
    theirs = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    file = export(run, config, run.best_checkpoint(), "torch_export", None)
    for answers in (map(torch.from_numpy, theirs), torch.export.load(file).module()(*inputs.values())):
        torch.testing.assert_close(list(answers), own, rtol=1e-4, atol=1e-4)
    told = capsys.readouterr().out.splitlines()
    examples = 13 if task in ("Segmentation", "TwoInputs") else 21
    ending = f" of {examples} test examples right" if outputs == ["probabilities"] else f" on {examples} test examples"
    assert all(ending in line for line in told[-2:])


def test_where_it_is_not_clear_what_is_the_class_nothing_is_said_to_be_right(trained, capsys):
    run, config, _ = trained["TextClassifier"]
    other = config.model_copy(update={"data": {"_target_": "other_tasks.NumberedTexts"}})
    export(run, other, run.best_checkpoint(), "safetensors", None)
    assert capsys.readouterr().out.endswith(": outputs within 0 of the run's model's on 21 test examples\n")


@pytest.mark.parametrize("task", EXPORTED)
def test_safetensors_holds_the_weights_of_net_or_of_the_whole_module(trained, task, tmp_path):
    run, config, module = trained[task]
    file = export(run, config, run.best_checkpoint(), "safetensors", tmp_path / "x.safetensors")
    expected = (module.net if hasattr(module, "net") else module).state_dict()
    torch.testing.assert_close(load_file(file), dict(expected), rtol=0, atol=0)


@pytest.mark.parametrize("task", ["Regression", "TextClassifier"])
def test_each_example_is_told_with_its_answer(trained, task, tmp_path):
    run, config, _ = trained[task]
    (tmp_path / "run").mkdir()
    file = tmp_path / "examples.csv"
    evaluate(config, run.best_checkpoint(), "cpu", None, tmp_path / "run", "test", file)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 21
    if task == "Regression":
        assert list(rows[0]) == ["loader", "example", "preds", "targets"]
        squares = [(float(row["preds"]) - float(row["targets"])) ** 2 for row in rows]
        means = [sum(batch) / len(batch) for batch in (squares[:8], squares[8:16], squares[16:])]
        assert sum(means) / 3 == pytest.approx(run.record.metrics.test["test_loss"], rel=1e-5)
    else:
        columns = ["targets", "predicted", "probability", "scores/0", "scores/1", "scores/2"]
        assert list(rows[0]) == ["loader", "example", *columns]


def test_what_cannot_be_exported_is_told(trained, tmp_path):
    config = of("GAN", "Points", "other_modules")
    run = train(config, tmp_path / "gan")
    with pytest.raises(UserError, match="^GAN has no forward, which is what is exported$"):
        export(run, config, run.best_checkpoint(), "onnx", None)
    run, config, _ = trained["TwoInputs"]
    other = config.model_copy(update={"data": {"_target_": "other_tasks.Empty"}})
    with pytest.raises(UserError, match="^the data module has no test examples, on which the file would be tried$"):
        export(run, other, run.best_checkpoint(), "onnx", None)
    other = config.model_copy(update={"data": {"_target_": "other_tasks.Texts"}})
    told = "^forward takes left, right, of which a dict with tokens, label has no tensors; name its arguments"
    with pytest.raises(UserError, match=told):
        export(run, other, run.best_checkpoint(), "onnx", None)
