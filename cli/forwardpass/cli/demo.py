"""`forwardpass demo`: the whole way, on real data, in one command."""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from forwardpass.cli.errors import CommandError
from forwardpass.cli.serve import READY
from forwardpass.client import Client, Prediction
from forwardpass.models import Network, forward, publish
from forwardpass.models.zoo import ZOO, Example

_START_S = 60.0
_TIMED_CALLS = 300
_SHOWN_PATIENTS = 10


def run_demo(*, keep: bool, port: int) -> None:
    """Export the example networks, serve them in a child process, predict, compare, end.

    Raises CommandError if the server does not come up.
    """
    console = Console()
    with tempfile.TemporaryDirectory(prefix="forwardpass-demo-") as folder:
        repository = Path(folder) / "models"
        networks = {}
        for name, example in track(
            ZOO.items(), "exporting with proof", console=console, transient=True
        ):
            networks[name] = example.network()
            publish(networks[name], repository)
        console.print(f"exported {len(networks)} networks, each proven against its mathematics")
        with _server(repository, port) as target, Client(target) as client:
            console.print(f"a server of its own process answers on {target}\n", highlight=False)
            console.print(_differences(client, networks))
            console.print(_patients(client, networks["breast_cancer"], ZOO["breast_cancer"]))
            console.print(_time_of_a_call(client, ZOO["breast_cancer"]))
            if keep:
                console.print(f"the server stays on {target} until Ctrl-C", highlight=False)
                _wait_for_interrupt()


def _differences(client: Client, networks: Mapping[str, Network]) -> Table:
    table = Table(
        "model",
        "output",
        "held-out rows",
        "largest difference from float64",
        "quality on held-out rows",
        title="answers over gRPC against the float64 reference, relative to the largest answer",
    )
    for name, network in networks.items():
        held_out = ZOO[name].held_out()
        prediction = client.predict(name, held_out.x)
        reference = forward(network, held_out.x)
        for output, expected in reference.items():
            relative = np.abs(prediction[output] - expected).max() / np.abs(expected).max()
            truth = held_out.truth.get(output)
            table.add_row(
                name,
                output,
                str(len(held_out.x)),
                f"{relative:.1e}",
                "" if truth is None else _quality(prediction[output], truth),
            )
    return table


def _quality(answers: NDArray[Any], truth: NDArray[Any]) -> str:
    if set(np.unique(truth)) <= {0, 1}:
        return f"accuracy {_accuracy(answers, truth):.1%}"
    residual = float(((answers - truth) ** 2).sum())
    spread = float(((truth - truth.mean(axis=0)) ** 2).sum())
    return f"R² {1 - residual / spread:.2f}"


def _accuracy(probability: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(((probability >= 0.5) == (truth >= 0.5)).mean())


def _patients(client: Client, network: Network, example: Example) -> Table:
    held_out = example.held_out()
    prediction = client.predict(example.name, held_out.x)
    probability, worst = prediction["malignancy"][:, 0], prediction["worst"]
    malignant = held_out.truth["malignancy"][:, 0] >= 0.5
    label = next(output for output in network.outputs if output.name == "worst").labels[0]
    table = Table(
        "patient",
        "P(malignant)",
        "diagnosis",
        "truth",
        "",
        f"{label}, predicted",
        "measured",
        title=f"{example.name}: {_SHOWN_PATIENTS} of {len(malignant)} held-out patients",
        caption=f"accuracy on all {len(malignant)}: {_accuracy(probability, malignant):.1%}",
    )
    names = np.array(["benign", "malignant"])
    for index in range(_SHOWN_PATIENTS):
        diagnosis, truth = names[int(probability[index] >= 0.5)], names[int(malignant[index])]
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


@contextmanager
def _server(repository: Path, port: int) -> Iterator[str]:
    """Run `forwardpass serve` in a process of its own; give its target."""
    command = [sys.executable, "-m", "forwardpass.cli", "serve", str(repository)]
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*command, "--port", str(port), "--drain-s", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors: list[str] = []
    drain = threading.Thread(target=_collect, args=(process.stderr, errors), daemon=True)
    drain.start()
    try:
        yield _target(process, errors)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        drain.join()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _target(process: "subprocess.Popen[str]", errors: list[str]) -> str:
    deadline = threading.Timer(_START_S, process.kill)
    deadline.start()
    try:
        for line in process.stdout or ():
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
    finally:
        deadline.cancel()
    raise CommandError(f"the server did not come up:\n{''.join(errors[-20:])}")


def _collect(stream: Any, lines: list[str]) -> None:
    lines.extend(stream)


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass
