"""The lab: everything that works with any data and any model. For notebooks: `from litlab import train, load_run`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litlab.notebook import load_run, train

__all__ = ["load_run", "train"]


def __getattr__(name: str) -> Any:
    """Import them only when asked for, so that a command can refuse its config before it has waited for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from litlab import notebook

    return getattr(notebook, name)
