"""A browser at the server's page: Debian's Chromium, driven by Playwright, with axe-core.

Usage: python -m conformance.browser FOLDER writes the pictures of the documentation.
"""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from benchmarks.networks import NETWORKS
from conformance.environments import node_modules
from numpy.typing import NDArray
from PIL import Image
from support import onnx_files

from forwardpass.client import Client
from forwardpass.models import Network, publish
from forwardpass.models.zoo import ZOO
from forwardpass.proto import metadata
from forwardpass.proto.metadata import ColumnNames, dump_columns
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.guard import Limits

SOURCE = Path(__file__).parent / "programs" / "page"
TIMEOUT_S = 600.0

RANGED = "breast_cancer"
"""The model that has the ranges of its features in its file, and two versions."""
FOREIGN = "theirs & <b>others<b>"
"""A file of another producer, of a name that a page must not take for HTML."""
BROKEN = "broken"


def ranged() -> Network:
    """The network of breast tumors with the ranges of the patients held out."""
    network, x = ZOO[RANGED].network(), ZOO[RANGED].held_out().x
    low, high = x.min(axis=0).tolist(), x.max(axis=0).tolist()
    return replace(network, inputs=(replace(network.input, low=low, high=high),))


def latest() -> Network:
    """The second version of that network: other biases, and a little other answers."""
    network = ranged()
    layers = (replace(layer, b=layer.b * np.float32(1.01)) for layer in network.layers)
    return replace(network, layers=tuple(layers))


def write_repository(root: Path) -> Path:
    """Write every example network, a large one, a foreign file, and one that is none."""
    for example in ZOO.values():
        publish(ranged() if example.name == RANGED else example.network(), root)
    publish(latest(), root)
    publish(NETWORKS["large"], root)
    names = {"x": ColumnNames(labels=("<i>a</i>", "b & c", "d"))}
    foreign = onnx_files.linear({metadata.INPUTS: dump_columns(names)})
    onnx_files.save(foreign, root / FOREIGN / "1" / "model.onnx")
    (root / BROKEN / "1").mkdir(parents=True)
    (root / BROKEN / "1" / "model.onnx").write_bytes(b"this is no model")
    return root


@contextmanager
def serving(
    repository: Path, tokens: Path | None = None, *, general: bool = False
) -> Iterator[Server]:
    """Serve a repository on loopback, with REST and the page."""
    config = Config(
        models=repository,
        port=0,
        http_port=0,
        metrics_port=0,
        tokens=tokens,
        limits=Limits(general=general),
        drift_by_feature=True,
    )
    with Server(config) as server:
        yield server


def browse(server: Server, what: str, **task: Any) -> dict[str, Any]:
    """Have the browser do something; return its report, whose `faults` are what is always wrong.

    Raises AssertionError if it does not get to its end.
    """
    chromium = shutil.which("chromium")
    assert chromium is not None, "apt-get install chromium"
    address = f"http://127.0.0.1:{server.http_port}"
    with TemporaryDirectory() as folder:
        given, report = Path(folder, "task.json"), Path(folder, "report.json")
        given.write_text(
            json.dumps({"what": what, "address": address, "chromium": chromium, **task})
        )
        modules = f"NODE_PATH={node_modules(SOURCE)}"
        done = subprocess.run(
            ["env", modules, "node", SOURCE / "main.js", given, report],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(report.read_text())
    return found


def pictures() -> list[tuple[str, str, str]]:
    """Return name, view and pasted row of each picture of the documentation."""
    patient, digit = (ZOO[name].held_out().x for name in (RANGED, "digits_autoencoder"))
    return [
        ("start", "/", ""),
        ("model", f"/models/{RANGED}", pasted(patient[5])),
        ("digits", "/models/digits_autoencoder", pasted(digit[4])),
        ("operation", "/operation", ""),
    ]


def pasted(row: NDArray[Any]) -> str:
    """Return a row as a line of CSV, in the shortest texts of its float32 numbers."""
    return ",".join(map(str, row.astype(np.float32)))


@contextmanager
def calling(server: Server) -> Iterator[None]:
    """Call the example networks meanwhile, some hundred times a second, with more and less rows."""
    stop = threading.Event()

    def call() -> None:
        rng = np.random.default_rng(0)
        with Client(f"127.0.0.1:{server.port}") as client:
            while not stop.wait(float(rng.exponential(0.004))):
                name = str(rng.choice(list(ZOO)))
                rows = ZOO[name].held_out()[: 2 ** int(rng.integers(0, 7))]
                client.predict(name, rows.x)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def take_pictures(
    folder: Path, *, dark: bool = False, whole: bool = False, patience_ms: int = 1500
) -> None:
    """Write the pictures of the documentation: start, two models, operation, wide and narrow."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as repository, serving(write_repository(Path(repository))) as server:
        schemes = ["light", "dark"] if dark else ["light"]
        with calling(server):
            report = browse(
                server,
                "pictures",
                folder=str(folder),
                pictures=pictures(),
                schemes=schemes,
                scale=1,
                patience=patience_ms,
                whole=whole,
            )
    assert report["faults"] == [], report["faults"]
    for path in folder.glob("*.png"):
        # A third of the bytes, and nothing that the eye would miss.
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(192).save(path, optimize=True)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), patience_ms=30_000)
