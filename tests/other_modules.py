"""LightningModules and data modules as other people write them; none knows of the lab."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score


def points(seed, size):
    """Points (size, 4) and the quadrant (size,) that their first two coordinates are in."""
    inputs = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, 0] > 0).long() * 2 + (inputs[:, 1] > 0).long()


class Points(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(*points(0, 60)), batch_size=8)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*points(1, 20)), batch_size=8)

    def test_dataloader(self):
        return DataLoader(TensorDataset(*points(2, 20)), batch_size=8)


class Named(Points):
    """Batches that are dictionaries."""

    def train_dataloader(self):
        inputs, labels = points(0, 60)
        return DataLoader([{"x": x, "y": y} for x, y in zip(inputs, labels, strict=True)], batch_size=8)

    def val_dataloader(self):
        return self.train_dataloader()

    def test_dataloader(self):
        return self.train_dataloader()


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*points(0, 60), strict=True)


class Streamed(Points):
    def train_dataloader(self):
        return DataLoader(Stream(), batch_size=8)


class Noisy(Dataset):
    """Draws at random in each example."""

    def __init__(self):
        self.inputs, self.labels = points(0, 60)

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return self.inputs[index] + 0.1 * torch.randn(4), self.labels[index]


class Shuffled(Points):
    def __init__(self, workers: int = 0):
        super().__init__()
        self.workers = workers

    def train_dataloader(self):
        return DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=self.workers)


class Several(Points):
    """Two loaders to validate and to test on."""

    def val_dataloader(self):
        return [super().val_dataloader(), self.test_dataloader()[0]]

    def test_dataloader(self):
        return [super().test_dataloader()]


class Basic(LightningModule):
    """As Lightning's own documentation has it."""

    def __init__(self, hidden: int = 8):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 4))

    def forward(self, x):
        return self.net(x)

    def _loss(self, batch):
        x, y = batch
        return functional.cross_entropy(self(x), y)

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class GAN(LightningModule):
    """Two optimizers by hand."""

    def __init__(self, latent: int = 2):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(latent, 4)
        self.discriminator = nn.Linear(4, 1)

    def _judged(self, x, is_real):
        answer = self.discriminator(x)
        return functional.binary_cross_entropy_with_logits(answer, torch.full_like(answer, float(is_real)))

    def training_step(self, batch):
        real, _ = batch
        for_generator, for_discriminator = self.optimizers()
        fake = self.generator(torch.randn(len(real), 2, device=self.device))
        self.toggle_optimizer(for_generator)
        loss = self._judged(fake, is_real=True)
        for_generator.zero_grad()
        self.manual_backward(loss)
        for_generator.step()
        self.untoggle_optimizer(for_generator)
        other = self._judged(real, is_real=True) + self._judged(fake.detach(), is_real=False)
        for_discriminator.zero_grad()
        self.manual_backward(other)
        for_discriminator.step()
        self.log_dict({"g_loss": loss, "d_loss": other}, prog_bar=True)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._judged(batch[0], is_real=True))

    def configure_optimizers(self):
        adam = torch.optim.Adam
        return [adam(self.generator.parameters(), 2e-3), adam(self.discriminator.parameters(), 1e-3)], []


class WithLBFGS(Basic):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


class OwnSchedule(Basic):
    """An optimizer and a schedule of its own, by several of Lightning's forms."""

    def configure_optimizers(self):
        body, head = self.net[0].parameters(), self.net[2].parameters()
        optimizer = torch.optim.SGD([{"params": body, "lr": 0.1}, {"params": head, "lr": 0.2}], momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ByNames(Basic):
    def _loss(self, batch):
        return functional.cross_entropy(self(batch["x"]), batch["y"])


class Untested(LightningModule):
    """Neither validation nor test."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return {"loss": functional.cross_entropy(self.net(x), y), "more": x.sum()}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


class ManyLoaders(Basic):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", self._loss(batch))


class Normalized(Basic):
    """Statistics, and random numbers in each step."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))


class Shared(Basic):
    """One weight in two places."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        del self.net

    def forward(self, x):
        return self.head(torch.relu(self.decoder(torch.relu(self.encoder(x)))))


class FrozenBackbone(Basic):
    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)
        self.net[0].eval()

    def configure_optimizers(self):
        return torch.optim.Adam(filter(lambda one: one.requires_grad, self.parameters()), lr=0.01)


class Measured(Basic):
    """Collections of torchmetrics, in all stages."""

    def __init__(self):
        super().__init__()
        metrics = MetricCollection({"acc": MulticlassAccuracy(4), "f1": MulticlassF1Score(4)})
        self.train_metrics, self.val_metrics = metrics.clone(prefix="train/"), metrics.clone(prefix="val/")

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x)
        self.train_metrics.update(scores, y)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return functional.cross_entropy(scores, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.val_metrics.update(self(x), y)
        self.log_dict(self.val_metrics)


class Hooked(Basic):
    """Hooks of many kinds, and state of its own in the checkpoint."""

    def __init__(self):
        super().__init__()
        self.seen = 0
        self.register_buffer("average", torch.zeros(()))

    def on_train_batch_start(self, batch, batch_idx):
        self.seen += 1

    def on_before_optimizer_step(self, optimizer):
        self.log("grad_norm", torch.stack([one.grad.norm() for one in self.parameters()]).norm())

    def on_train_epoch_end(self):
        self.average = 0.5 * self.average + 0.5 * self.seen
        self.log("seen", float(self.seen))

    def configure_callbacks(self):
        return [Callback()]

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step()

    def on_save_checkpoint(self, checkpoint):
        checkpoint["seen"] = self.seen

    def on_load_checkpoint(self, checkpoint):
        self.seen = checkpoint["seen"]


CASES = {
    "Basic": ("Points", "val_loss"),
    "GAN": ("Points", "val_loss"),
    "WithLBFGS": ("Points", "val_loss"),
    "OwnSchedule": ("Points", "val_loss"),
    "ByNames": ("Named", "val_loss"),
    "Untested": ("Points", None),
    "ManyLoaders": ("Several", "val_loss/dataloader_idx_0"),
    "Normalized": ("Points", "val_loss"),
    "Shared": ("Points", "val_loss"),
    "FrozenBackbone": ("Points", "val_loss"),
    "Measured": ("Points", "val/acc"),
    "Hooked": ("Points", "val_loss"),
    "streamed": ("Streamed", "val_loss"),
    "shuffled": ("Shuffled", "val_loss"),
    "read by workers": ("Shuffled", "val_loss"),
}
"""Modules by their names, with their data and what is monitored; the last ones are a Basic."""
