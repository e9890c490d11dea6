"""What a run shows and records while it goes, for any LightningModule."""
