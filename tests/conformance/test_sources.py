"""`forwardpass pull` with MLflow's and Hugging Face's own packages.

MLflow is its real server, and its stores on disk. No hub can be reached from a test, so
huggingface_hub, which is the real one, talks to a small server on this machine that answers the
routes it asks for (HF_ENDPOINT): what the hub itself would answer is not tested.
"""

import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest
from conformance.conftest import PROGRAMS, running, wait_for
from conformance.environments import ROOT
from support import onnx_files
from support.ports import free_ports

from forwardpass.models import export
from forwardpass.models.zoo import ZOO

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def python(environment: Callable[..., Path]) -> Path:
    return environment("mlflow", "-e", f"{ROOT}[all,mlflow,huggingface]")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    export(ZOO["breast_cancer"].network(), tmp_path / "cancer.onnx")
    return tmp_path / "cancer.onnx"


def pull(
    python: Path, source: str, repository: Path, **variables: str
) -> "subprocess.CompletedProcess[str]":
    kept = {key: text for key, text in os.environ.items() if not key.startswith(("MLFLOW", "HF_"))}
    return subprocess.run(
        [python, "-m", "forwardpass.cli", "pull", source, repository],
        env=kept | variables,
        capture_output=True,
        text=True,
        cwd=repository.parent,
    )


def register(python: Path, model: Path, folder: Path, uri: str) -> None:
    done = subprocess.run(
        [python, PROGRAMS / "register_models.py", model],
        env=os.environ
        | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
        | {"MLFLOW_ALLOW_FILE_STORE": "true"},
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr


def provenance(version: Path) -> dict[str, str]:
    texts: dict[str, str] = json.loads((version / "provenance.json").read_text())
    return texts


@contextmanager
def tracking_server(python: Path, folder: Path) -> Iterator[str]:
    """Run MLflow's server on a database and a folder of artifacts, which it hands out itself."""
    (port,) = free_ports(1)
    log = folder / "server.log"
    command: list[str | Path] = [
        *(python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/tracking.db", "--workers", "1"),
        *("--artifacts-destination", folder / "artifacts"),
    ]
    env = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with running(command, log, cwd=folder, env=env, start_new_session=True) as process:
        address = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return bool(urlopen(f"{address}/health", timeout=5).status == 200)
            except OSError:
                return False

        try:
            # It imports for a minute on a busy machine.
            wait_for(answers, process, log, timeout_s=300)
            yield address
        finally:
            # Its workers as well, which the first process may leave behind.
            os.killpg(process.pid, signal.SIGTERM)


def test_a_model_of_mlflow_is_pulled_by_alias_and_by_version(
    python: Path, model: Path, tmp_path: Path
) -> None:
    repository, folder = tmp_path / "models", tmp_path / "mlflow"
    folder.mkdir()
    with tracking_server(python, folder) as address:
        uri = {"MLFLOW_TRACKING_URI": address}
        register(python, model, folder, address)
        done = {
            source: pull(python, source, repository, **uri)
            for source in (
                *("mlflow:outside@champion", "mlflow:inside/1", "mlflow:file@champion"),
                *("mlflow:file/1", "mlflow:file@nobody", "mlflow:file/7", "mlflow:none/1"),
            )
        }

    outside = done.pop("mlflow:outside@champion")
    assert outside.stdout.startswith("mlflow:outside@champion is mlflow:outside/1\nwrote ")
    # The flavour's default: weights of any size lie in a file beside it.
    names = {path.suffix for path in (repository / "outside" / "1").iterdir()}
    assert names == {".onnx", ".data", ".json"}
    assert "wrote" in done.pop("mlflow:inside/1").stdout
    assert {path.name for path in (repository / "inside" / "1").iterdir()} == {
        *("model.onnx", "provenance.json")
    }
    assert "wrote" in done.pop("mlflow:file@champion").stdout
    assert (repository / "file" / "1" / "model.onnx").read_bytes() == model.read_bytes()
    texts = provenance(repository / "file" / "1")
    assert texts["pulled from"] == "mlflow:file/1"
    assert texts["sha256 of model.onnx"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert texts["alias"] == "champion"
    assert len(texts["run"]) == 32
    assert "nothing was written" in done.pop("mlflow:file/1").stdout
    for source, refused in done.items():
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"error: {source}: ")
        assert "not found" in refused.stderr


@pytest.mark.parametrize("store", ["sqlite:///{}/tracking.db", "file://{}/mlruns"])
def test_a_model_of_a_store_on_this_machine_is_pulled(
    python: Path, model: Path, tmp_path: Path, store: str
) -> None:
    uri = store.format(tmp_path)

    register(python, model, tmp_path, uri)
    done = pull(python, "mlflow:outside@champion", tmp_path / "models", MLFLOW_TRACKING_URI=uri)

    assert done.returncode == 0, done.stderr
    assert provenance(tmp_path / "models" / "outside" / "1")["version"] == "1"


def test_a_store_of_mlflow_that_is_not_there_is_not_made(python: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for uri in ("", f"sqlite:///{tmp_path}/typo.db", f"file://{tmp_path}/typo"):
        done = pull(python, "mlflow:m/1", repository, MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 2
        assert "MLFLOW_TRACKING_URI" in done.stderr
    assert [*tmp_path.iterdir()] == []


class Hub(BaseHTTPRequestHandler):
    """One repository at one commit, which is `main`."""

    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path in (f"/api/models/acme/nets/revision/{COMMIT}", "/api/models/acme/nets"):
            siblings = [
                {
                    "rfilename": name,
                    "size": len(content),
                    "lfs": {
                        "sha256": hashlib.sha256(content).hexdigest(),
                        "size": len(content),
                        "pointerSize": 130,
                    },
                }
                for name, content in self.files.items()
            ]
            about = {"id": "acme/nets", "sha": COMMIT, "siblings": siblings}
            self.answer(200, json.dumps(about).encode())
            return
        head, _, name = path.partition(f"/acme/nets/resolve/{COMMIT}/")
        content = self.files.get(name)
        if head or content is None:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        tag = hashlib.sha256(content).hexdigest()
        self.answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, content: bytes, further: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, text in {"Content-Length": str(len(content)), **(further or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(model: Path) -> Iterator[tuple[type[Hub], str]]:
    beside = onnx_files.without_its_weights().SerializeToString()
    files = {
        "README.md": b"# nets",
        "modeling.py": b"raise SystemExit('run')",
        "model.pkl": b"cos\nsystem\n(S'false'\ntR.",
        "cancer.onnx": model.read_bytes(),
        "onnx/model.onnx": beside,
        "onnx/weights.bin": onnx_files.W.tobytes(),
    }
    handler = type("Here", (Hub,), {"files": files, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_file_of_a_hub_is_pulled_at_its_commit_and_nothing_else_is_fetched(
    python: Path, hub: tuple[type[Hub], str], tmp_path: Path
) -> None:
    handler, address = hub
    variables = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf")}
    repository = tmp_path / "models"

    pinned = pull(python, f"hf:acme/nets/cancer.onnx@{COMMIT}", repository, **variables)
    looked_up = pull(python, "hf:acme/nets/onnx/model.onnx", repository, **variables)
    unclear = pull(python, f"hf:acme/nets@{COMMIT}", repository, **variables)
    unknown = pull(python, f"hf:acme/nets@{'f' * 40}", repository, **variables)
    code = pull(python, f"hf:acme/nets/modeling.py@{COMMIT}", repository, **variables)

    assert pinned.returncode == 0, pinned.stderr
    assert pinned.stdout.startswith("wrote ")
    first, second = repository / "nets" / "1", repository / "nets" / "2"
    assert (first / "model.onnx").read_bytes() == handler.files["cancer.onnx"]
    texts = provenance(first)
    assert texts["pulled from"] == f"hf:acme/nets/cancer.onnx@{COMMIT}"
    assert texts["commit"] == COMMIT
    assert looked_up.stdout.startswith(
        f"hf:acme/nets/onnx/model.onnx is hf:acme/nets/onnx/model.onnx@{COMMIT}\n"
    )
    assert (second / "model.onnx").read_bytes() == handler.files["onnx/model.onnx"]
    assert (second / "weights.bin").read_bytes() == onnx_files.W.tobytes()
    assert "expected one .onnx file, got cancer.onnx, onnx/model.onnx; name it" in unclear.stderr
    assert unknown.returncode == code.returncode == 1
    assert "HF_ENDPOINT" in unknown.stderr
    assert "expected a .onnx file of the repository, got 'modeling.py'" in code.stderr
    fetched = {path.rpartition("/")[2] for path in handler.asked if "/resolve/" in path}
    assert not {"modeling.py", "model.pkl", "README.md"} & fetched
