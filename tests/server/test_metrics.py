"""Metrics: scraped from real servers, compared with the calls that were made."""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from support import onnx_files
from support.rpc import Stub
from support.versions import BROKEN, put
from support.wire import infer_request

from forwardpass.proto.metadata import INPUTS, ColumnNames, dump_columns
from forwardpass.server.access import Access
from forwardpass.server.app import Server
from forwardpass.server.caller import Action
from forwardpass.server.config import Config
from forwardpass.server.metrics_server import MetricsListenError
from forwardpass.server.tokens import new_token

DOCS = Path(__file__).parents[2] / "docs"
ROW = {"x": np.ones((1, 2), np.float32)}
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def fetch(port: int, path: str = "/metrics", accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as reply:
        return reply.read().decode()


def scrape(server: Server) -> Samples:
    assert server.metrics_port is not None
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(fetch(server.metrics_port))
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"forwardpass_{name}", frozenset(labels.items())))


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    with Server(Config(models=root, port=0, metrics_port=0)) as server:
        yield server


@pytest.fixture
def stub(server: Server) -> Iterator[Stub]:
    with Stub(server.port) as stub:
        yield stub


def test_calls_are_counted_by_model_version_and_code(server: Server, stub: Stub) -> None:
    for _ in range(3):
        stub.infer(infer_request("m", {"x": np.ones((4, 2), np.float32)}))
    stub.refusal("ModelInfer", infer_request("m", {"x": np.ones((1, 3), np.float32)}))
    stub.refusal("ModelInfer", infer_request("m", ROW, model_version="7"))
    for name in ("nothing", "no more"):
        stub.refusal("ModelInfer", infer_request(name, ROW))
    stub.refusal("ModelInfer", b"no message")

    samples = scrape(server)

    m = {"model": "m", "version": "1"}
    assert value(samples, "calls_total", **m, code="OK") == 3
    assert value(samples, "calls_total", **m, code="INVALID_ARGUMENT") == 1
    assert value(samples, "calls_total", model="m", version="", code="NOT_FOUND") == 1
    # Names that are none of ours share a line: callers cannot make us keep them.
    assert value(samples, "calls_total", model="", version="", code="NOT_FOUND") == 2
    assert value(samples, "calls_total", model="", version="", code="INVALID_ARGUMENT") == 1
    assert value(samples, "rows_total", **m) == 12
    assert value(samples, "batch_rows_count", **m) == 3
    assert value(samples, "batch_rows_sum", **m) == 12
    assert value(samples, "batch_rows_bucket", **m, le="2") == 0
    assert value(samples, "batch_rows_bucket", **m, le="4") == 3


def test_calls_on_a_stream_count_as_calls(server: Server, stub: Stub) -> None:
    list(stub.stream([infer_request("m", ROW), infer_request("m", {"y": ROW["x"]})]))

    samples = scrape(server)

    m = {"model": "m", "version": "1"}
    assert value(samples, "calls_total", **m, code="OK") == 1
    assert value(samples, "calls_total", **m, code="INVALID_ARGUMENT") == 1
    assert value(samples, "streams") == 0


def test_an_open_stream_shows(server: Server, stub: Stub) -> None:
    def requests() -> Iterator[object]:
        yield infer_request("m", ROW)
        eventually(lambda: value(scrape(server), "streams") == 1)

    assert not any(answer.error_message for answer in stub.stream(requests()))
    eventually(lambda: value(scrape(server), "streams") == 0)


def test_phases_are_histograms_whose_parts_sum_up(server: Server, stub: Stub) -> None:
    for _ in range(50):
        stub.infer(infer_request("m", ROW))

    samples = scrape(server)

    sums = {}
    for phase in ("decode", "queue", "compute", "encode", "total"):
        labels = {"model": "m", "version": "1", "phase": phase}
        buckets = sorted(
            (float(dict(key)["le"]), count)
            for (name, key), count in samples.items()
            if name == "forwardpass_call_seconds_bucket" and set(labels.items()) <= key
        )
        counts = [count for _, count in buckets]
        assert counts == sorted(counts)
        assert buckets[-1] == (float("inf"), 50)
        # Below a millisecond there is more than one bound.
        assert sum(bound < 1e-3 for bound, _ in buckets) >= 9
        assert value(samples, "call_seconds_count", **labels) == 50
        sums[phase] = value(samples, "call_seconds_sum", **labels) or 0.0
    assert all(seconds > 0 for phase, seconds in sums.items() if phase != "queue")
    assert sums.pop("total") == pytest.approx(sum(sums.values()), rel=1e-6)


def test_states_follow_what_becomes_of_the_files(server: Server, root: Path) -> None:
    def state(version: str, name: str) -> float | None:
        return value(scrape(server), "model_state", model="m", version=version, state=name)

    assert state("1", "READY") == 1
    assert state("1", "UNAVAILABLE") == 0
    put(root, "m", 2, BROKEN)
    eventually(lambda: state("2", "UNAVAILABLE") == 1)
    put(root, "m", 1, BROKEN)
    eventually(lambda: value(scrape(server), "model_refused", model="m", version="1") == 1)
    assert state("1", "READY") == 1


def test_memory_and_queue_stand_by_model(server: Server) -> None:
    samples = scrape(server)

    m = {"model": "m", "version": "1"}
    # W (2, 2) and b (2) in float32.
    assert value(samples, "model_memory_bytes", **m) == 24
    assert value(samples, "queue_calls", **m) == 0
    assert value(samples, "queue_limit_calls", **m) == 1024
    assert value(samples, "ready") == 1


def test_inputs_out_of_the_range_in_the_file_are_counted(tmp_path: Path) -> None:
    columns = {"x": ColumnNames(low=(0.0, 0.0, 0.0), high=(1.0, 1.0, 1.0))}
    model = onnx_files.linear({INPUTS: dump_columns(columns)})
    onnx_files.save(model, tmp_path / "linear.onnx")
    rows = np.array([[0.5, 2.0, 1.0], [-1.0, np.nan, 0.0]], np.float32)

    with Server(Config(models=tmp_path, port=0, metrics_port=0)) as server:
        with Stub(server.port) as stub:
            stub.infer(infer_request("linear", {"x": rows}))
        samples = scrape(server)

    x = {"model": "linear", "version": "1", "input": "x"}
    assert value(samples, "input_values_total", **x) == 6
    assert value(samples, "input_out_of_range_values_total", **x) == 2
    assert value(samples, "input_nan_values_total", **x) == 1


def test_a_range_for_other_columns_keeps_a_model_out(tmp_path: Path) -> None:
    columns = {"x": ColumnNames(low=(0.0,), high=(1.0,))}
    onnx_files.save(onnx_files.linear({INPUTS: dump_columns(columns)}), tmp_path / "linear.onnx")

    with Server(Config(models=tmp_path, port=0)) as server:
        (entry,) = server.catalog.index()

    assert "a range for 1 of the 3 columns of 'x'" in entry.reason


def test_who_is_refused_before_a_model_is_known_is_counted(root: Path, tmp_path: Path) -> None:
    made = new_token("web", ["other"], [Action.INFER])
    (tmp_path / "tokens").write_text(made.line)
    config = Config(models=root, port=0, metrics_port=0, tokens=tmp_path / "tokens")
    allowed = (("authorization", f"Bearer {made.token}"),)

    with Server(config) as server, Stub(server.port) as stub:
        stub.refusal("ModelInfer", infer_request("m", ROW))
        stub.refusal("ModelInfer", infer_request("m", ROW), metadata=allowed)
        with pytest.raises(grpc.RpcError):
            list(stub.stream([infer_request("m", ROW)]))
        samples = scrape(server)

    assert value(samples, "calls_total", model="", version="", code="UNAUTHENTICATED") == 2
    assert value(samples, "calls_total", model="m", version="", code="PERMISSION_DENIED") == 1
    assert Access(tmp_path / "tokens").required


def test_every_metric_stands_in_the_documentation_with_type_and_labels(
    server: Server, stub: Stub
) -> None:
    stub.infer(infer_request("m", ROW))
    exposed = {}
    for family in parse_openmetrics(
        fetch(server.metrics_port or 0, accept="application/openmetrics-text; version=1.0.0")
    ):
        if not family.name.startswith("forwardpass"):
            continue
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = frozenset().union(*(sample.labels for sample in family.samples)) - {"le"}
        kind = "gauge" if family.type == "info" else family.type
        exposed[family.name + suffix] = (kind, labels)

    documented = {}
    for line in (DOCS / "observability.md").read_text().splitlines():
        if line.startswith("| `forwardpass_"):
            name, kind, labels, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
            documented[name.strip("`")] = (kind, frozenset(filter(None, labels.split(", "))))

    assert documented == exposed


def test_other_paths_are_not_found(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        fetch(server.metrics_port or 0, "/../etc/passwd")
    assert raised.value.code == 404
    raised.value.close()


def test_a_scraper_that_never_asks_does_not_hold_up_the_others(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.metrics_port or 0)) as silent:
        silent.sendall(b"GET /met")
        assert "forwardpass_ready" in fetch(server.metrics_port or 0)


def test_without_the_flag_there_are_no_metrics(root: Path) -> None:
    with Server(Config(models=root, port=0)) as server:
        assert server.metrics_port is None


def test_a_port_that_is_taken_is_told_at_the_start(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MetricsListenError, match=f"127.0.0.1:{port} for metrics"):
            Server(Config(models=root, port=0, metrics_port=port))


def test_the_port_is_free_again_after_the_end(root: Path) -> None:
    with Server(Config(models=root, port=0, metrics_port=0)) as server:
        port = server.metrics_port
    with pytest.raises(urllib.error.URLError):
        fetch(port or 0)
