"""The plots of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.field.grid import OPEN, Case
from benchmarks.field.results import Results
from benchmarks.networks import NETWORKS

_SALT = "forwardpass"
"""So that a plot of the same figures is the same file."""


@dataclass(frozen=True)
class Plot:
    """A picture of the document."""

    file: str
    title: str
    draw: Callable[[Results, Axes], None]


def save_plots(results: Results, folder: Path) -> None:
    """Draw every plot into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        with mpl.rc_context({"svg.hashsalt": _SALT, "font.size": 9}):
            figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
            plot.draw(results, axes)
            axes.set_title(plot.title)
            figure.savefig(folder / plot.file, metadata={"Date": None})
            pyplot.close(figure)


def _throughput(results: Results, axes: Axes) -> None:
    """Draw calls per second: for each server a bar with its spread for each network."""
    networks = [name for name in NETWORKS if Case(name, 1, 32) in results.cases()]
    servers = [
        server
        for server in results.servers()
        if any(results.figure(server, Case(name, 1, 32), "calls_per_s") for name in networks)
    ]
    thickness = 0.8 / max(1, len(networks))
    for index, name in enumerate(networks):
        label = "-".join(map(str, NETWORKS[name].sizes))
        case, offset = Case(name, 1, 32), index * thickness
        _bars(results, axes, servers, case, "calls_per_s", offset, thickness, label)
    _name_places(axes, servers, 0.4 - thickness / 2)
    axes.set_xscale("log")
    axes.set_xlabel("calls per second")
    axes.legend()


def _tails(results: Results, axes: Axes) -> None:
    """Draw latency at half load and at 80 %: from the median to the 99th percentile."""
    servers = [
        server
        for server in results.servers()
        if any(results.figure(server, Case("small", 1, load=load), "p50_us") for load in OPEN)
    ]
    for index, load in enumerate(OPEN):
        case = Case("small", 1, load=load)
        spans = []
        for place, server in enumerate(servers):
            p50, p99 = (results.figure(server, case, name) for name in ("p50_us", "p99_us"))
            if p50 is not None and p99 is not None:
                spans.append((place + index * 0.3, p50.median, p99.median))
        if spans:
            places, low, high = zip(*spans, strict=True)
            lines = axes.hlines(places, low, high, color=f"C{index}", linewidth=4, label=load)
            lines.set_capstyle("butt")
            axes.plot(low, places, "|", color="black")
    axes.set_yticks(range(len(servers)), servers)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("microseconds")
    axes.legend()


def _name_places(axes: Axes, servers: list[str], offset: float) -> None:
    axes.set_yticks([place + offset for place in range(len(servers))], servers)
    axes.invert_yaxis()


def _bars(
    results: Results,
    axes: Axes,
    servers: list[str],
    what: Case | str,
    metric: str,
    offset: float,
    thickness: float,
    label: str | None,
) -> None:
    found = {server: results.figure(server, what, metric) for server in servers}
    measured = {server: figure for server, figure in found.items() if figure is not None}
    axes.barh(
        [servers.index(server) + offset for server in measured],
        [figure.median for figure in measured.values()],
        thickness,
        xerr=[
            [figure.median - figure.low for figure in measured.values()],
            [figure.high - figure.median for figure in measured.values()],
        ],
        label=label,
    )


PLOTS = (
    Plot("throughput.svg", "Calls a second: 1 row, 8x4", _throughput),
    Plot("tails.svg", "30-64-32-2, 1 row: latency from the 50th to the 99th percentile", _tails),
)
