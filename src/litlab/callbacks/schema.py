"""Settings of the callbacks."""

from litlab.config.types import OpenFraction, Settings


class EMA(Settings):
    """Settings of litlab.callbacks.ema.EMA."""

    decay: OpenFraction
    """Share of the average that the next step keeps."""
