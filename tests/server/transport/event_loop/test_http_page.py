"""The page's files over HTTP: a strict policy, and tags that spare a transfer."""

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import pages
from support.rest import Rest
from support.versions import put
from support.waiting import eventually

from forwardpass.server.config import Transport
from forwardpass.server.rpc.page.files import find
from forwardpass.server.transport.event_loop import server
from forwardpass.server.transport.event_loop.server import AsyncioServer

JSON = {"Content-Type": "application/json"}
ROOT = Path(__file__).parents[4]
ASSETS = ROOT / "server" / "forwardpass" / "server" / "rpc" / "page" / "assets"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[Rest]:
    root = tmp_path_factory.mktemp("page")
    put(root, "m", 1, 1)
    with pages.served(root, transport=transport) as (_, client):
        yield client


def paths() -> dict[str, Path]:
    return {"/": ASSETS / "index.html"} | {f"/ui/{each.name}": each for each in ASSETS.iterdir()}


def test_every_file_is_served_as_it_is_under_a_strict_policy(client: Rest) -> None:
    for path, file in paths().items():
        answer = client.get(path)
        assert answer.status == 200, path
        assert answer.body == file.read_bytes()
        assert answer.fields["content-type"] == TYPES[file.suffix]
        policy = answer.fields["content-security-policy"]
        assert policy == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        assert answer.fields["x-content-type-options"] == "nosniff"
        assert answer.fields["referrer-policy"] == "no-referrer"
        assert answer.fields["cache-control"] == "no-cache"
        assert "access-control-allow-origin" not in answer.fields


def test_what_the_client_has_is_not_sent_again(client: Rest) -> None:
    for path in paths():
        first = client.get(path)
        tag = first.fields["etag"]
        for known in (tag, f'"other", {tag}', "*"):
            again = client.call("GET", path, fields={"If-None-Match": known})
            assert (again.status, again.body, again.fields["etag"]) == (304, b"", tag)
            assert again.fields["content-length"] == str(len(first.body))
            assert "content-security-policy" in again.fields
        assert client.call("GET", path, fields={"If-None-Match": '"other"'}).status == 200
        head = client.call("HEAD", path)
        assert (head.status, head.body, head.fields["etag"]) == (200, b"", tag)
        assert client.get("/v2/health/live").status == 200


def test_files_are_compressed_for_who_accepts_it(client: Rest) -> None:
    for path, file in paths().items():
        answer = client.call("GET", path, fields={"Accept-Encoding": "gzip"})
        assert answer.status == 200
        small = len(file.read_bytes()) < 512
        assert ("content-encoding" in answer.fields) is not small


def test_nothing_else_of_the_disk_is_served(client: Rest) -> None:
    for name in (
        "..",
        "%2e%2e",
        "..%2Ffiles.py",
        "..%2f..%2f..%2f..%2fpyproject.toml",
        "%2Fetc%2Fpasswd",
        "index.html%00",
        "index.html/x",
        "none.js",
        "api",
        "api/overview/x",
        "",
    ):
        assert client.get(f"/ui/{name}").status == 404, name
    assert find("../files.py") is None
    assert find("") is None


def test_data_is_json_that_nobody_keeps(client: Rest) -> None:
    for path in (pages.OVERVIEW, pages.model_path("m"), pages.model_path("m", "1")):
        answer = client.get(path)
        assert answer.fields["content-type"] == "application/json"
        assert answer.fields["cache-control"] == "no-store"
        assert answer.fields["x-content-type-options"] == "nosniff"
        assert client.post(path, b"{}").status == 405
    assert client.post("/", b"").status == 405


def test_a_server_that_nobody_asks_for_its_page_imports_nothing_of_it(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, 1)
    program = f"""
import sys, urllib.request
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from pathlib import Path
with Server(Config(models=Path({str(tmp_path)!r}), port=0, http_port=0)) as server:
    url = f"http://127.0.0.1:{{server.http_port}}"
    urllib.request.urlopen(url + "/v2").read()
    assert not [name for name in sys.modules if "rpc.page" in name]
    assert server._front._page is None
    urllib.request.urlopen(url + "/ui/api/overview").read()
    assert "forwardpass.server.rpc.page.page" in sys.modules
    assert server._front._page is not None
    assert server._front._page._lately._timer is None
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def reset(client: Rest) -> None:
    """Go away so that the server notices."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def test_calls_that_have_no_room_are_refused_and_those_of_who_has_gone_are_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_PAGE_WAITING", 2)
    put(tmp_path, "m", 1, 1)
    with (
        pages.served(tmp_path, transport=Transport.ASYNCIO) as (serving, client),
        ExitStack() as stack,
    ):
        page = serving._front.page()
        transport = serving._front.transport
        assert isinstance(transport, AsyncioServer)

        def ask(calls: int) -> Rest:
            each = stack.enter_context(Rest(serving.http_port))
            each.send("POST", f"{pages.model_path('m')}/run", {"inputs": {"x": [[1, 2]]}}, JSON)
            eventually(lambda: transport._page_calls == calls)
            return each

        with page._lately._making:
            begun = [ask(calls) for calls in range(1, 5)]
            waiting, gone = ask(5), ask(6)
            refused = client.get(pages.model_path("m"))
            assert (refused.status, refused.fields["retry-after"]) == (429, "1")
            assert "2 calls of the server's page" in refused.error
            # What is not the page's does not wait.
            assert client.get("/v2/models/m").status == 200
            before = len(transport.state.connections)
            reset(gone)
            eventually(lambda: len(transport.state.connections) < before)
        for each in [*begun, waiting]:
            assert each.answer().status == 200
        eventually(lambda: transport._page_calls == 0)
        assert page._runs == 5
        assert client.get(pages.model_path("m")).status == 200
