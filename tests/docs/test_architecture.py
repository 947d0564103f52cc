"""The page on the architecture names files that exist, and walks that calls really take."""

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import grpc
import numpy as np
import pytest
from support.wire import infer_request

from forwardpass.client import Client
from forwardpass.models import publish
from forwardpass.models.zoo import ZOO
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport

ROOT = Path(__file__).parents[2]
PORTIONS = ("proto", "models", "server", "client", "cli")
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FILE = re.compile(r"`([\w./-]+(?:\.(?:py|proto|toml|md)|/))`")
X = np.array([[5, 162, 60]], np.float32)
METHOD = "/inference.GRPCInferenceService/ModelInfer"
AT_ANY_TIME = {
    "server/transport/http2/allowance.py",
    "server/transport/http2/peer_settings.py",
    "server/process/saturation.py",
    "server/transport/event_loop/memory.py",
    "server/transport/event_loop/patience.py",
    "server/transport/event_loop/server.py",
}
"""What PINGs and SETTINGS, which grpcio's client sends when it likes, and the event loop's clock
pass."""


def stands_for(name: str) -> list[Path]:
    """What a name of the page may mean: the end of a path, seen from where the page is."""
    folders = [*PORTIONS, "tests", "benchmarks", "deploy", "docs"]
    found = [path for folder in folders for path in (ROOT / folder).rglob(name.rstrip("/"))]
    return [path for path in (ROOT / name, *found) if path.exists()]


def section(start: str, end: str) -> str:
    return PAGE[PAGE.index(start) : PAGE.index(end)]


def files(text: str, portion: str, *titles: str) -> set[str]:
    """The files that the steps with these titles name; without titles, all steps."""
    found = set()
    for title, step in re.findall(r"^\d+\. \*\*(.*?)\.\*\*(.*?)(?=^\S|\Z)", text, re.M | re.S):
        if titles and title not in titles:
            continue
        for name in FILE.findall(step):
            if (ROOT / portion / "forwardpass" / portion / name).is_file():
                found.add(f"{portion}/{name}")
            else:
                assert (ROOT / "proto" / "forwardpass" / name).is_file(), name
                found.add(name)
    return found


CALL = section("## The life of a call", "`Client.predict`;")
PREDICT = section("`Client.predict`;", "## The life of a model")
MODEL = section("## The life of a model", "## The walks, counted")
COUNTED = dict(re.findall(r"^\| (.*?) \| (\d+) \| \d+ \|$", PAGE, re.MULTILINE))


class Walk:
    """Records the files of ours whose functions run while it is on."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.on = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if not self.on or event != "call" or frame.f_code.co_name == "<module>":
            return
        _, ours, name = frame.f_code.co_filename.partition("/forwardpass/")
        if ours and frame.f_code.co_filename.startswith(str(ROOT)):
            self.passed.add(name)


@pytest.fixture
def walk() -> Iterator[Walk]:
    """Of threads that begin from here on."""
    recorded, before = Walk(), threading.getprofile()
    threading.setprofile(recorded)
    yield recorded
    recorded.on = False
    threading.setprofile(before)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    publish(ZOO["linnerud"].network(), tmp_path)
    return tmp_path


@contextmanager
def called(models: Path, transport: Transport) -> Iterator[Callable[[], object]]:
    """A server, and a call of it over a connection that stands."""
    message = infer_request("linnerud", {"x": X}).SerializeToString()
    with (
        Server(Config(models=models, port=0, transport=transport, watch=False)) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        grpc.channel_ready_future(channel).result(10)
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        # Without a timeout, which would be another header field each time.
        yield lambda: infer(message)


def wait_for(walk: Walk, expected: set[str]) -> None:
    """Wait for what comes after the answer, and end the record."""
    deadline = time.monotonic() + 5
    while not expected - AT_ANY_TIME <= walk.passed and time.monotonic() < deadline:
        time.sleep(0.01)
    walk.on = False


def assert_walked(walk: Walk, expected: set[str], heading: str) -> None:
    wait_for(walk, expected)
    assert walk.passed - AT_ANY_TIME == expected - AT_ANY_TIME
    assert int(COUNTED[heading]) == len(expected)


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_that_is_named_exists(page: str) -> None:
    named = FILE.findall((ROOT / page).read_text())

    assert len(named) > 20
    assert [name for name in named if not stands_for(name)] == []


@pytest.mark.parametrize(
    ("transport", "where", "known", "first"),
    [
        (
            Transport.GRPCIO,
            "Over grpcio",
            "ModelInfer over grpcio",
            "the same, first of its form",
        ),
        (
            Transport.ASYNCIO,
            "On the event loop",
            "ModelInfer on the event loop",
            "the same, first of its form and connection",
        ),
    ],
)
def test_a_call_passes_the_files_that_its_steps_name(
    walk: Walk, models: Path, transport: Transport, where: str, known: str, first: str
) -> None:
    always = files(CALL, "server", where, "Read", "Run", "Answer")
    once = files(CALL, "server", "First of its form", f"{where}, first on a connection")
    with called(models, transport) as call:
        walk.on = True
        call()
        assert_walked(walk, always | once, first)
        # Its client packs the fields of a second call in another way, and then repeats itself. On
        # a busy machine a call may come in two reads, or wait for a thread: then the next one is
        # looked at.
        for _ in range(5):
            call()
            walk.passed.clear()
            walk.on = True
            call()
            wait_for(walk, always)
            if walk.passed - AT_ANY_TIME == always - AT_ANY_TIME:
                break
        assert_walked(walk, always, known)


def test_predict_passes_the_files_that_its_steps_name(walk: Walk, models: Path) -> None:
    always = files(PREDICT, "client", "Every call")
    before = sys.getprofile()
    with (
        Server(Config(models=models, port=0, transport=Transport.ASYNCIO, watch=False)) as server,
        Client(f"127.0.0.1:{server.port}") as client,
    ):
        # The server's threads began before and have it, too.
        threading.setprofile(before)
        for expected, heading in (
            (files(PREDICT, "client"), "the same, first of a model"),
            (always, "`Client.predict`"),
        ):
            walk.passed.clear()
            sys.setprofile(walk)
            walk.on = True
            client.predict("linnerud", X)
            walk.on = False
            sys.setprofile(before)
            # The server writes its answers with `proto/varint.py`.
            walk.passed = {
                name for name in walk.passed - {"proto/varint.py"} if not name.startswith("server/")
            }
            assert_walked(walk, expected, heading)


def test_a_file_passes_the_files_that_its_steps_name(walk: Walk, models: Path) -> None:
    steps = ("Listen", "Find", "Prove harmless", "Load and replay", "Swap in")
    # By name: another test of this run may have changed the default.
    server = Server(Config(models=models, port=0, transport=Transport.ASYNCIO, watch=False))
    before = sys.getprofile()
    sys.setprofile(walk)
    walk.on = True
    server.start()
    walk.on = False
    sys.setprofile(before)
    server.stop()
    server.lifecycle.join()

    # The event loop's clock passes it.
    walk.passed.discard("server/rpc/on_loop.py")
    assert_walked(walk, files(MODEL, "server", *steps), "a plain file from disk to ready")
