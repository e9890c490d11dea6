"""Modules and data with a fault each."""

import random
import time

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy


def points(seed, size):
    """Points (size, 4) and the quadrant (size,) that their first two coordinates are in."""
    inputs = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, 0] > 0).long() * 2 + (inputs[:, 1] > 0).long()


class Points(LightningDataModule):
    train, val = points(0, 60), points(1, 20)

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.train), batch_size=8)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*self.val), batch_size=8)


class Sound(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        self.accuracy = MulticlassAccuracy(4, average="micro")

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        scores = self(batch[0])
        self.accuracy(scores, batch[1])
        self.log("val_loss", functional.cross_entropy(scores, batch[1]), batch_size=len(batch[1]))
        self.log("val_acc", self.accuracy)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# --- modules ----------------------------------------------------------------------------------------------------------


class TrainsInValidation(Sound):
    def validation_step(self, batch, batch_idx):
        self.train()
        super().validation_step(batch, batch_idx)


class ShrinksInValidation(Sound):
    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        with torch.no_grad():
            self.net[0].weight.mul_(0.9)


class DrawsInValidation(Sound):
    """Which a dropout of the training then feels."""

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(functional.dropout(self(batch[0]), 0.1), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step([batch[0] + 0 * torch.randn(4), batch[1]], batch_idx)


class AveragesAverages(Sound):
    def on_validation_epoch_start(self):
        self.of_batches = []

    def validation_step(self, batch, batch_idx):
        self.of_batches.append((self(batch[0]).argmax(1) == batch[1]).float().mean())

    def on_validation_epoch_end(self):
        self.log("val_acc", torch.stack(self.of_batches).mean())


class WeighsBatchesAlike(Sound):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]), batch_size=1)


class NeverResets(Sound):
    def __init__(self):
        super().__init__()
        self.right = self.seen = 0

    def validation_step(self, batch, batch_idx):
        self.right += int((self(batch[0]).argmax(1) == batch[1])[: len(batch[1]) - self.seen % 3].sum())
        self.seen += len(batch[1])
        self.log("val_acc", self.right / self.seen)


class DropoutLeftOn(Sound):
    def forward(self, x):
        return self.net(functional.dropout(x, 0.5))


class KnowsItsBatch(Sound):
    def forward(self, x):
        return self.net((x - x.mean(0)) / (x.std(0, correction=0) + 1))


class ReadsANumber(Sound):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.last = loss.item()
        return loss


class Detaches(Sound):
    def forward(self, x):
        return self.net[1:](self.net[0](x).detach())


class DetachesTheLoss(Sound):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx).detach()


class ForgetsALayer(Sound):
    def configure_optimizers(self):
        return torch.optim.SGD(self.net[3].parameters(), lr=0.1)


class FreezesALayer(Sound):
    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)


class MovesAFrozenOne(FreezesALayer):
    def on_train_batch_end(self, *args):
        self.net[0].weight.data.add_(0.01)


class StepsTwice(Sound):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.schedule = torch.optim.lr_scheduler.StepLR(optimizer, 100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule, "interval": "step"}}

    def on_train_batch_end(self, *args):
        self.schedule.step()


class SumsTheLoss(Sound):
    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1], reduction="sum")


class NeverLearns(Sound):
    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), torch.randint(4, batch[1].shape))


class Forgets(Sound):
    """A count that no checkpoint holds."""

    count = 0

    def training_step(self, batch, batch_idx):
        self.count += 1
        return super().training_step(batch, batch_idx) / self.count


class GoesByTheClock(Sound):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + time.perf_counter() % 1)


class Raises(Sound):
    def training_step(self, batch, batch_idx):
        return self.nett(batch[0])


# --- data -------------------------------------------------------------------------------------------------------------


class ShuffledValidation(Points):
    def val_dataloader(self):
        return DataLoader(TensorDataset(*self.val), batch_size=8, shuffle=True)


class Leaks(Points):
    val = Points.train[0][50:], Points.train[1][50:]


class NotNumbers(Points):
    train = Points.train[0].clone().index_fill(0, torch.tensor([3]), float("nan")), Points.train[1]


class AllTheSame(Points):
    train = torch.zeros(60, 4), Points.train[1]


class Noise(Dataset):
    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return Points.train[0][index] + self.draw(), Points.train[1][index]


class DrawsFromNumPy(Points):
    def train_dataloader(self):
        return DataLoader(Noise(lambda: torch.from_numpy(np.random.randn(4)).float()), batch_size=8)


class DrawsFromPython(Points):
    def train_dataloader(self):
        return DataLoader(Noise(random.random), batch_size=8)


class DrawsFromTorch(Points):
    def train_dataloader(self):
        return DataLoader(Noise(lambda: torch.randn(4)), batch_size=8)


class OneOrder(Points):
    """Shuffled once, and never again."""

    def train_dataloader(self):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
        return DataLoader(TensorDataset(*self.train), batch_size=8, sampler=order)


class LabelsFromOne(Points):
    train = Points.train[0], Points.train[1] + 1
