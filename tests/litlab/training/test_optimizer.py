"""Groups of parameters have settings of their own."""

import csv

import pytest
from conftest import SHORT, settings, train
from lightning.pytorch import Callback

from litlab.config.command_line import of_train
from litlab.errors import UserError

pytestmark = pytest.mark.usefixtures("mnist_dir")
QUICK = (*SHORT, "logger=csv", "trainer.limit_train_batches=4", "trainer.log_every_n_steps=1", "test=false")


class Look(Callback):
    """Notes the groups of the optimizer."""

    def on_train_start(self, trainer, pl_module):
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        self.groups = [
            ([names[id(one)] for one in group["params"]], group["lr"], group["weight_decay"])
            for group in trainer.optimizers[0].param_groups
        ]


def by_layers(module, lr):
    """Groups as torch has them, by a function."""
    return [{"params": module.net.conv1.parameters(), "lr": lr}, {"params": module.net.out.parameters()}]


def grouped(tmp_path, *overrides):
    look = Look()
    run = train(settings(*of_train([*QUICK, *overrides])), tmp_path / "run", callbacks=[look])
    with next(run.folder.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    return look.groups, rows, run


def test_by_patterns_of_names(tmp_path):
    groups, rows, _ = grouped(
        tmp_path,
        "optimizer.lr=0.01",
        "optimizer.groups.first={params: net.conv1, lr: 0.1}",
        "optimizer.groups.biases={params: ['*.bias'], weight_decay: 0.5}",
    )
    conv1 = ["net.conv1.0.weight", "net.conv1.0.bias"]
    assert groups[0] == (conv1, 0.1, 0.0)
    assert [(lr, decay) for _, lr, decay in groups[1:]] == [(0.01, 0.5), (0.01, 0.0)]
    assert all(name.endswith("bias") for name in groups[1][0])
    assert not any(name.endswith("bias") for name in groups[2][0])
    rates = {name: rows[0][f"learning_rate/{name}"] for name in ("first", "biases", "rest")}
    assert rates == {"first": "0.1", "biases": "0.01", "rest": "0.01"}


def test_by_a_function_of_the_module(tmp_path):
    node = f"optimizer.groups={{_target_: {__name__}.by_layers, lr: 0.3}}"
    groups, rows, _ = grouped(tmp_path, node)
    assert [lr for _, lr, _ in groups] == [0.3, 0.001]
    assert rows[0]["learning_rate/0"] == "0.3"


def test_with_a_schedule_each_group_keeps_its_own_rate(tmp_path):
    _, rows, _ = grouped(tmp_path, "scheduler=linear", "optimizer.groups.first={params: net.conv1, lr: 0.1}")
    ratios = [float(row["learning_rate/first"]) / float(row["learning_rate/rest"]) for row in rows if row["train/loss"]]
    assert ratios == pytest.approx([100] * len(ratios))


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ("optimizer.groups.a={params: nte}", "optimizer.groups.a.params: nte matches nothing; there is net."),
        ("optimizer.groups.a={lr: 1}", "optimizer.groups.a.params: should be a pattern of parameters' names"),
        ("optimizer.groups.a={params: net, lrr: 1}", "optimizer.groups.a.lrr=1: no such key, did you mean "),
        (
            "optimizer.groups.a={params: net, lr: -1.0}",
            "optimizer.groups.a.lr=-1.0: should be greater than or equal to 0",
        ),
        ("optimizer.groups=[net]", "optimizer.groups=['net']: should be settings by a group's name, such as {head"),
        (f"optimizer.groups={{_target_: {__name__}.by_layer}}", "has no attribute 'by_layer'"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(tmp_path, node, problem):
    with pytest.raises(UserError) as error:
        grouped(tmp_path, node)
    assert problem in str(error.value)
