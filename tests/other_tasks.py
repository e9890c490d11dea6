"""Data and modules of other tasks than labelled pictures; none knows of the lab."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Task(LightningDataModule):
    """The same examples for everything."""

    def train_dataloader(self):
        return self.loader()

    def val_dataloader(self):
        return self.loader()

    def test_dataloader(self):
        return self.loader()


class Table(Task):
    """Rows in units of their own, and a number; standardized on the device."""

    def loader(self):
        rows = 100 + 20 * drawn(21, 3)
        return DataLoader(TensorDataset(rows, rows.sum(1) / 50), batch_size=8)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        rows, targets = batch
        return (rows - 100) / 20, targets


class Texts(Task):
    """Tokens, of another length in each batch, and a class."""

    def loader(self):
        tokens = torch.randint(1, 50, (21, 12), generator=torch.Generator().manual_seed(0))
        examples = [{"tokens": one, "label": one[0] % 3} for one in tokens]
        return DataLoader(examples, batch_size=8, collate_fn=self.shortened)

    def shortened(self, examples):
        batch = torch.utils.data.default_collate(examples)
        return {**batch, "tokens": batch["tokens"][:, : 3 + int(batch["tokens"][0, 0]) % 9]}


class NumberedTexts(Texts):
    """With a number for each example that is no class."""

    def shortened(self, examples):
        return {**super().shortened(examples), "number": torch.arange(len(examples))}


class Empty(Task):
    """No examples at all."""

    def loader(self):
        return []


class Masks(Task):
    """Small pictures, and the class of each pixel."""

    def loader(self):
        pictures = drawn(13, 3, 8, 8)
        return DataLoader(TensorDataset(pictures, (pictures.mean(1) > 0).long()), batch_size=8)


class Pairs(Task):
    """Two inputs, and a number."""

    def loader(self):
        return DataLoader(TensorDataset(drawn(13, 4), drawn(13, 2, seed=1), drawn(13, seed=2)), batch_size=8)


class Trained(LightningModule):
    def training_step(self, batch, batch_idx):
        return self.evaluated(batch)["loss"]

    def validation_step(self, batch, batch_idx):
        outputs = self.evaluated(batch)
        self.log("val_loss", outputs["loss"], batch_size=8)
        return outputs

    def test_step(self, batch, batch_idx):
        outputs = self.evaluated(batch)
        self.log("test_loss", outputs["loss"], batch_size=8)
        return outputs

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Regression(Trained):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, rows):
        return self.net(rows).squeeze(1)

    def evaluated(self, batch):
        preds = self(batch[0])
        return {"loss": functional.mse_loss(preds, batch[1]), "preds": preds, "targets": batch[1]}


class TextClassifier(Trained):
    """Has no `net`."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(self.embedding(tokens).mean(1))

    def evaluated(self, batch):
        scores = self(batch["tokens"])
        loss = functional.cross_entropy(scores, batch["label"])
        return {"loss": loss, "scores": scores, "targets": batch["label"]}


class Segmentation(Trained):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, pictures):
        return self.net(pictures)

    def evaluated(self, batch):
        scores = self(batch[0])
        return {"loss": functional.cross_entropy(scores, batch[1]), "scores": scores, "targets": batch[1]}


class TwoInputs(Trained):
    """Answers by names."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left, right):
        both = self.left(left) + self.right(right)
        return {"mean": both.mean(1), "all": both}

    def evaluated(self, batch):
        return {"loss": functional.mse_loss(self(*batch[:2])["mean"], batch[2])}


TASKS = {"Regression": "Table", "TextClassifier": "Texts", "Segmentation": "Masks", "TwoInputs": "Pairs"}
"""Modules and their data."""
