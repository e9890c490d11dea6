"""The network, and the LightningModule: what is computed on a batch, what is logged, what is optimized."""

from collections.abc import Callable, Iterable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from litlab.errors import UserError

Batch = tuple[Tensor, Tensor]


class Network(nn.Module):
    """What `data=folder` and the lab's pictures work with: images (N, in_channels, size, size) to (N, num_classes)."""

    def __init__(self, in_channels: int, image_size: int, num_classes: int) -> None:
        super().__init__()
        # YOURS: the layers, from these or other sizes. The next line only gives the optimizer something to hold.
        self.layers = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's answers."""
        # YOURS: what is computed.
        raise UserError("src/digits/model.py: Network.forward is yours to write: from inputs to answers")


class Model(LightningModule):
    """Trains `net`; `optimizer`, `scheduler` and `augment` are what configs/ says, all but the first may be None."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer, Trainer], LRSchedulerConfigType] | None = None,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.augment = augment or nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's answers."""
        answers: Tensor = self.net(inputs)
        return answers

    def loss(self, batch: Batch) -> Tensor:
        """What training makes smaller."""
        # YOURS: such as nn.functional.cross_entropy(self(inputs), labels)
        raise UserError("src/digits/model.py: Model.loss is yours to write: from a batch to a number")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, logged at each step."""
        inputs, labels = batch
        loss = self.loss((self.augment(inputs), labels))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss of the validation's examples; configs/train.yaml says that the least `val/loss` is the best."""
        self.log("val/loss", self.loss(batch), batch_size=len(batch[0]), prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss of the test's examples."""
        self.log("test/loss", self.loss(batch), batch_size=len(batch[0]))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and with it the schedule that moves its learning rate."""
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer, self.trainer)}
