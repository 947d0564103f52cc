"""`forwardpass demo`: export, serve and predict on real data, in one command."""

import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from forwardpass.cli.errors import CommandError
from forwardpass.cli.serving.process import server_process
from forwardpass.client import Client, Prediction
from forwardpass.models import Network, forward, publish
from forwardpass.models.zoo import ZOO, Example

_TIMED_CALLS = 300
_SHOWN_PATIENTS = 10
_MAX_COLUMNS = 12
"""Maximum number of columns with an R² each, as in the networks' provenance; more share one."""
_LARGEST_DIFFERENCE = 2e-6
"""Maximum difference of any answer from the float64 reference, relative to the largest answer of
its output."""


def run_demo(*, keep: bool, port: int) -> None:
    """Export the example networks, serve them in a child process, predict, compare, end.

    Raises CommandError if the server does not come up, or if an answer is further from the
    reference than it may be.
    """
    # So that the server and the folder are removed, too, if the demo itself is ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # A shell starts background processes with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="forwardpass-demo-") as folder:
        repository = Path(folder) / "models"
        networks = _publish(console, repository)
        console.print(f"exported {len(networks)} networks, each proven against its mathematics")
        with server_process(repository, port) as target, Client(target) as client:
            console.print(f"a server of its own process answers on {target}\n", highlight=False)
            answers = [answer for name in networks for answer in _answers(client, networks[name])]
            console.print(_differences(answers))
            console.print(_patients(client, networks["breast_cancer"], ZOO["breast_cancer"]))
            console.print(_time_of_a_call(client, ZOO["breast_cancer"]))
            _check(answers)
            if keep:
                console.print(f"the server stays on {target} until Ctrl-C", highlight=False)
                _wait_for_interrupt()


def _publish(console: Console, repository: Path) -> Mapping[str, Network]:
    networks = {name: example.network() for name, example in ZOO.items()}
    for network in track(
        networks.values(),
        "exporting with proof",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        publish(network, repository)
    return networks


@dataclass(frozen=True)
class _Answer:
    """The result of one output of a model on its held-out rows."""

    model: str
    output: str
    rows: int
    difference: float
    """The largest difference from the reference, relative to the largest answer."""
    quality: str
    """The figure of merit against the truth; empty if there is none."""


def _answers(client: Client, network: Network) -> Iterator[_Answer]:
    held_out = ZOO[network.name].held_out()
    prediction = client.predict(network.name, held_out.x)
    for output, expected in forward(network, held_out.x).items():
        truth = held_out.truth.get(output)
        yield _Answer(
            network.name,
            output,
            len(held_out),
            float(np.abs(prediction[output] - expected).max() / np.abs(expected).max()),
            "" if truth is None else _quality(prediction[output], truth),
        )


def _differences(answers: Iterable[_Answer]) -> Table:
    table = Table(
        "model",
        "output",
        "rows",
        "difference",
        "quality",
        title="held-out rows, answered over gRPC",
        caption="difference: the largest from the float64 reference, relative to the largest "
        f"answer; R²: the mean over the output's columns, of more than {_MAX_COLUMNS} all together",
    )
    for answer in answers:
        table.add_row(
            answer.model,
            answer.output,
            str(answer.rows),
            f"{answer.difference:.1e}",
            answer.quality,
        )
    return table


def _check(answers: Iterable[_Answer]) -> None:
    for answer in answers:
        if not answer.difference <= _LARGEST_DIFFERENCE:
            raise CommandError(
                f"{answer.model}: output {answer.output!r}: expected answers within "
                f"{_LARGEST_DIFFERENCE:g} of the float64 reference, got {answer.difference:.1e}"
            )


def _quality(answers: NDArray[Any], truth: NDArray[Any]) -> str:
    if set(np.unique(truth)) <= {0, 1}:
        return f"accuracy {_accuracy(answers, truth):.1%}"
    residual = ((answers - truth) ** 2).sum(axis=0)
    spread = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    if truth.shape[1] > _MAX_COLUMNS:
        # Pixels that are blank in every row have nothing to explain on their own.
        return f"R² {1 - residual.sum() / spread.sum():.2f}"
    return f"R² {1 - (residual / spread).mean():.2f}"


def _accuracy(probability: NDArray[Any], truth: NDArray[Any]) -> float:
    if truth.shape[1:] > (1,):
        return float((probability.argmax(axis=1) == truth.argmax(axis=1)).mean())
    return float(((probability >= 0.5) == (truth >= 0.5)).mean())


def _patients(client: Client, network: Network, example: Example) -> Table:
    held_out = example.held_out()
    prediction = client.predict(example.name, held_out.x)
    probability, worst = prediction["malignancy"][:, 0], prediction["worst"]
    malignant = held_out.truth["malignancy"][:, 0] >= 0.5
    label = next(output for output in network.outputs if output.name == "worst").labels[0]
    table = Table(
        "#",
        "P(malignant)",
        "diagnosis",
        "truth",
        "",
        label,
        "measured",
        title=f"{example.name}: {_SHOWN_PATIENTS} of {len(malignant)} held-out patients",
        caption=f"accuracy on all {len(malignant)}: {_accuracy(probability, malignant):.1%}",
    )
    names, diagnoses = prediction.columns["malignancy"].labels, prediction.label("malignancy")
    for index in range(_SHOWN_PATIENTS):
        diagnosis, truth = diagnoses[index], names[int(malignant[index])]
        table.add_row(
            str(index + 1),
            f"{probability[index]:.4f}",
            diagnosis,
            truth,
            "[green]right[/green]" if diagnosis == truth else "[red]wrong[/red]",
            f"{worst[index, 0]:.2f}",
            f"{held_out.truth['worst'][index, 0]:.2f}",
        )
    return table


def _time_of_a_call(client: Client, example: Example) -> Table:
    row = example.held_out().x[:1]
    calls = [client.predict(example.name, row, timing=True) for _ in range(_TIMED_CALLS)]
    parts = {part: _median(calls, part) for part in ("client", "network", "queue", "compute")}
    total = sum(parts.values())
    table = Table(
        "where the time goes",
        "µs",
        "share",
        title=f"one row, one call: medians of {len(calls)}",
    )
    for part, us in parts.items():
        table.add_row(_EXPLAINED[part], f"{us:.0f}", f"{us / total:.0%}")
    table.add_section()
    table.add_row("all", f"{total:.0f}", "")
    return table


_EXPLAINED = {
    "client": "client: check and encode, decode",
    "network": "network: gRPC and sockets on both sides",
    "queue": "server: decode and check, wait, encode",
    "compute": "server: the network itself on onnxruntime",
}


def _median(calls: list[Prediction], part: str) -> float:
    times: list[float] = [getattr(call.timing, f"{part}_us") for call in calls]
    return statistics.median(times)


def _wait_for_interrupt() -> None:
    try:
        while True:
            # Not for long: a signal that comes just before a sleep is seen after it.
            time.sleep(1)
    except KeyboardInterrupt:
        pass
