"""How optimizer steps are executed fast, for any LightningModule."""
