"""Settings of the views."""

from litlab.config.types import PositiveInt, Settings


class TrainingBatch(Settings):
    """Settings of litlab.views.batch.TrainingBatch."""

    images: PositiveInt
    """How many images are drawn."""


class Mistakes(Settings):
    """Settings of litlab.views.mistakes.Mistakes."""

    images: PositiveInt
    """How many images are drawn, at most."""


class PRCurves(Settings):
    """Settings of litlab.views.pr_curves.PRCurves."""

    classes: PositiveInt
    """How many classes have a curve, at most; the first ones."""


class Projector(Settings):
    """Settings of litlab.views.projector.Projector."""

    images: PositiveInt
    """How many test images are shown; t-SNE takes at least a few hundred."""
