"""Checks of the user's data module and LightningModule."""
