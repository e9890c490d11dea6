"""The figures as tables and as a plot."""

import json
import statistics
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib
from rich.console import Console
from rich.markdown import Markdown

from benchmarking.contenders import ROOT


def report(figures: dict[str, Any], file: Path | None) -> None:
    """Print the tables; write them, a plot of them and, if asked for, the figures."""
    folder = ROOT / "logs" / "benchmark" / datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    table = "\n".join([f"Measured by `{figures['command']}` on {figures['machine']}.", "", *tables(figures), ""])
    (folder / "table.md").write_text(table)
    plot(figures, folder / "speed.png")
    if file is not None:
        file.write_text(json.dumps(figures, indent=2))
    Console().print(Markdown(table))
    print(f"written to {folder}")


def tables(figures: dict[str, Any]) -> Iterable[str]:
    """Lines of Markdown: one table a batch size, then one of the rest."""
    for race in figures["training"]:
        speeds: dict[str, list[float]] = race["images_per_second"]
        base, usual, *_ = speeds.values()
        yield f"| batch {race['batch_size']} | images/s | / the tutorial's | / the usual Lightning's | / its limit |"
        yield "|---|---:|---:|---:|---:|"
        for name, found in speeds.items():
            limit = f"{ratio(found, speeds[limit_of(name, speeds)]):.2f}" if name.startswith("LitLab") else ""
            speed = f"{statistics.median(found):,.0f}"
            yield f"| {name} | {speed} | {ratio(found, base):.2f} | {ratio(found, usual):.2f} | {limit} |"
        yield ""
    yield "| | |"
    yield "|---|---:|"
    for name, value in figures["other"].items():
        yield f"| {name} | {value:,.4g} |"


def ratio(speeds: list[float], others: list[float]) -> float:
    """Median over the rounds; within a round the machine is the same, from one to the next it may not be."""
    return statistics.median(own / other for own, other in zip(speeds, others, strict=True))


def limit_of(name: str, speeds: dict[str, list[float]]) -> str:
    """The bare contender of the same settings."""
    precision = name.partition(", ")[2]
    graph = f"bare CUDA graph, {precision}"
    return graph if graph in speeds else f"bare loop, {precision}"


def plot(figures: dict[str, Any], file: Path) -> None:
    """A bar for each contender."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    races = figures["training"]
    drawing, axes = pyplot.subplots(1, len(races), figsize=(7 * len(races), 3), squeeze=False, layout="constrained")
    for race, axis in zip(races, axes[0], strict=True):
        names = list(reversed(race["images_per_second"]))
        speeds = [statistics.median(race["images_per_second"][name]) for name in names]
        colours = ["tab:orange" if name.startswith("LitLab") else "tab:blue" for name in names]
        axis.bar_label(axis.barh(names, speeds, color=colours), fmt="{:,.0f}", padding=3)
        axis.set(title=f"images per second, batch {race['batch_size']}", xlim=(0, max(speeds) * 1.15))
    drawing.savefig(file, dpi=120)
