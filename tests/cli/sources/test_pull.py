"""`forwardpass pull`: what others keep becomes a version with the same bytes, or nothing does."""

import hashlib
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from cli.conftest import adder
from onnx import ModelProto
from support import onnx_files
from support.certificates import write_self_signed
from support.command import Finished, run, run_here

from forwardpass.models import export


@pytest.fixture
def model(tmp_path: Path) -> Path:
    export(adder(), tmp_path / "kept" / "adder.onnx")
    return tmp_path / "kept" / "adder.onnx"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def published(repository: Path) -> list[str]:
    """All files of a repository, hidden ones too."""
    return sorted(
        str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()
    )


class Answers(BaseHTTPRequestHandler):
    """The files of a folder, and answers that are none."""

    folder: Path

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", f"{path.removeprefix('/moved/')}?{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        file = self.folder / path.rpartition("/")[2]
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        missing = 10 if path.startswith("/short/") else 0
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - missing])

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Web:
    """Our web server, over TLS and in the clear."""

    def __init__(self, ports: list[int], certificate: Path) -> None:
        self.https, self.http = (
            f"{scheme}://127.0.0.1:{port}"
            for scheme, port in zip(("https", "http"), ports, strict=True)
        )
        self.trusted = {"SSL_CERT_FILE": str(certificate)}


@pytest.fixture
def web(model: Path, tmp_path: Path) -> Iterator[Web]:
    certificate, key = write_self_signed(tmp_path)
    handler = type("Here", (Answers,), {"folder": model.parent})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    servers[0].socket = tls.wrap_socket(servers[0].socket, server_side=True)
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield Web([server.server_address[1] for server in servers], certificate)
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_file_of_a_web_server_is_published_with_its_bytes_and_where_it_came_from(
    web: Web, model: Path, repository: Path
) -> None:
    content = model.read_bytes()
    source = f"{web.https}/nets/adder.onnx#sha256={digest(content)}"

    done = run_here("pull", source.replace("#", "?token=SECRET#"), repository, env=web.trusted)

    path = repository / "adder" / "1" / "model.onnx"
    assert done.code == 0, done.stderr
    assert done.stdout == f"wrote {path} ({len(content):,} bytes, SHA-256 {digest(content)})\n"
    assert path.read_bytes() == content
    assert published(repository) == ["adder/1/model.onnx", "adder/1/provenance.json"]
    texts = json.loads(path.with_name("provenance.json").read_text())
    assert texts.pop("pulled at").endswith("+00:00")
    assert texts == {"pulled from": source, "sha256 of model.onnx": digest(content)}
    shown = run_here("inspect", repository).stdout
    assert "pulled from" in shown
    assert digest(content) in shown


def test_the_same_bytes_are_no_new_version_and_others_are(
    web: Web, model: Path, repository: Path
) -> None:
    first = f"{web.https}/adder.onnx#sha256={digest(model.read_bytes())}"
    assert run_here("pull", first, repository, env=web.trusted).code == 0
    again = run_here("pull", first, repository, env=web.trusted)
    assert again.code == 0
    assert again.stdout.endswith("has the same bytes already; nothing was written\n")

    onnx_files.save(onnx_files.linear(), model)
    second = f"{web.https}/moved/{web.https}/adder.onnx#sha256={digest(model.read_bytes())}"
    assert run_here("pull", second, repository, env=web.trusted).code == 0
    assert (repository / "adder" / "2" / "model.onnx").read_bytes() == model.read_bytes()

    taken = run_here("pull", second, repository, "--version", "1", env=web.trusted)
    assert taken.error == (
        f"{repository / 'adder' / '1'} exists already; leave --version out for the next one"
    )


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("HTTPS/adder.onnx", "/adder.onnx: expected #sha256= and 64 hexadecimal digits at its end"),
        ("HTTPS/adder.onnx#sha256=12", "got 'sha256=12'; add the SHA-256 that the model's owner"),
        (f"HTTPS/adder.onnx?key=SECRET#sha256={'0' * 64}", f"expected SHA-256 {'0' * 64}, got "),
        ("HTTPS/none.onnx?key=SECRET#OK", "/none.onnx: expected the file, got status 404"),
        ("HTTPS/short/adder.onnx#OK", "the connection ended 10 bytes before the file; pull it"),
        ("HTTPS/moved/HTTP/adder.onnx#OK", "expected a redirect to https, got one to HTTP; give"),
        ("HTTPS/large.onnx#OK", "expected at most 2048 bytes, got more; raise --max-model-bytes"),
        ("https://me:SECRET@host/m.onnx#OK", "https://host/m.onnx: expected an address without"),
        ("http://example.org/m.onnx#OK", "expected https, got http, by which anybody"),
        ("http://[/m.onnx#OK", "expected an address (Invalid IPv6 URL)"),
        ("ftp://host/m.onnx", "expected mlflow:NAME@ALIAS, hf:OWNER/REPO@COMMIT, https://HOST"),
        ("mlflow:m", "expected mlflow:NAME@ALIAS or mlflow:NAME/VERSION"),
        ("hf:m", "expected hf:OWNER/REPO@COMMIT, or hf:OWNER/REPO/PATH.onnx@COMMIT"),
        ("HTTPS/#OK", "(--name sets it): expected a name"),
    ],
)
def test_what_is_not_what_was_named_is_refused_and_nothing_is_left(
    web: Web, model: Path, repository: Path, address: str, says: str
) -> None:
    (model.parent / "large.onnx").write_bytes(bytes(4096))
    source = address.replace("HTTPS", web.https).replace("HTTP", web.http)
    source = source.replace("#OK", f"#sha256={digest(model.read_bytes())}")

    done = run_here("pull", source, repository, "--max-model-bytes", "2048", env=web.trusted)

    assert done.code in (1, 2)
    assert says.replace("HTTP;", f"{web.http};") in done.error
    assert "SECRET" not in done.error
    assert published(repository) == []


def test_a_server_that_is_not_trusted_is_named_with_the_fix(
    web: Web, model: Path, repository: Path
) -> None:
    done = run_here("pull", f"{web.https}/adder.onnx#sha256={'0' * 64}", repository)

    assert "certificate verify failed" in done.error
    assert "SSL_CERT_FILE" in done.error


def test_http_is_for_this_machine(web: Web, model: Path, repository: Path) -> None:
    source = f"{web.http}/adder.onnx#sha256={digest(model.read_bytes())}"
    assert run_here("pull", source, repository).code == 0
    assert (repository / "adder" / "1" / "model.onnx").read_bytes() == model.read_bytes()


def pulled(model: ModelProto, folder: Path, repository: Path, *options: str) -> Finished:
    """Pull a model from a store, which is a folder."""
    path = onnx_files.save(model, folder / "theirs.onnx")
    return run_here("pull", path.as_uri(), repository, *options)


def test_what_a_server_refuses_is_refused_with_its_words(tmp_path: Path, repository: Path) -> None:
    model = onnx_files.linear()
    model.graph.initializer[0].raw_data = np.full((2, 3), np.nan, np.float32).tobytes()

    done = pulled(model, tmp_path, repository)
    served = run("serve", tmp_path / "theirs.onnx", "--port", "0")

    assert done.code == served.code == 1
    reason = done.error.partition("theirs.onnx: ")[2]
    assert len(reason) > 40
    assert reason in served.stderr
    assert published(repository) == []


def test_weights_beside_a_model_of_a_store_come_with_it(tmp_path: Path, repository: Path) -> None:
    model = onnx_files.without_its_weights()

    done = pulled(model, tmp_path / "kept", repository)
    assert "'weights.bin' is not there" in done.error
    assert published(repository) == []

    (tmp_path / "kept" / "weights.bin").write_bytes(onnx_files.W.tobytes())
    assert pulled(model, tmp_path / "kept", repository, "--name", "ours").code == 0
    assert published(repository) == [
        *("ours/1/model.onnx", "ours/1/provenance.json", "ours/1/weights.bin")
    ]
    texts = json.loads((repository / "ours" / "1" / "provenance.json").read_text())
    assert texts["sha256 of weights.bin"] == digest(onnx_files.W.tobytes())
    assert run("doctor", repository, "--port", "0").stdout.count("model ours version 1: plain") == 1


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../weights.bin", "expected external data in a file beside the model, got location '../w"),
        ("provenance.json", "expected its weights in another file than 'provenance.json'"),
        ("model.onnx", "expected its weights in another file than 'model.onnx'"),
    ],
)
def test_no_file_is_fetched_that_is_none_of_the_model(
    tmp_path: Path, repository: Path, location: str, says: str
) -> None:
    model = onnx_files.without_its_weights()
    model.graph.initializer[0].external_data[0].value = location
    (tmp_path / "weights.bin").write_bytes(onnx_files.W.tobytes())

    done = pulled(model, tmp_path / "kept", repository)

    assert says in done.error
    assert published(repository) == []


def test_a_folder_of_a_store_is_its_one_model(model: Path, repository: Path) -> None:
    folder = model.parent.as_uri()
    done = run_here("pull", folder, repository)
    assert done.stdout.startswith(f"{folder} is {model.as_uri()}\nwrote ")
    copy = repository.with_name("copy")
    assert run_here("pull", repository.as_uri(), copy).code == 0
    assert published(copy) == published(repository)

    onnx_files.save(onnx_files.linear(), model.with_name("linear.onnx"))
    several = run_here("pull", folder, repository)
    assert several.error == (
        f"{folder}: expected one .onnx file, got adder.onnx, linear.onnx; name the file"
    )


@pytest.mark.parametrize(
    ("source", "missing", "extra"),
    [
        ("mlflow:m@champion", "mlflow", "mlflow"),
        ("hf:acme/nets@main", "huggingface_hub", "huggingface"),
        ("s3://bucket/m.onnx", "obstore", "stores"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    source: str, missing: str, extra: str, tmp_path: Path
) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['f', 'pull', {source!r}]"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; from forwardpass.cli.__main__ import main; main()"],
        env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert missing in done.stderr
    assert f"forwardpass[{extra}]" in done.stderr
    assert [*tmp_path.iterdir()] == []
