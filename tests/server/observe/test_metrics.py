"""Metrics: scraped from real servers, compared with the calls that were made."""

import copy
import gzip
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import grpc
import numpy as np
import onnx
import pytest
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from support import onnx_files
from support.certificates import Identity
from support.idle import until_idle
from support.rpc import Stub
from support.trials import bytes_of
from support.versions import BROKEN, put
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.metadata import INPUTS, ColumnNames, dump_columns
from forwardpass.server.access.authenticator import Access
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.statistics import Statistics
from forwardpass.server.guard import Limits
from forwardpass.server.health import Health
from forwardpass.server.observe.load import Load
from forwardpass.server.observe.metrics import MetricsCollector
from forwardpass.server.observe.metrics_server import MetricsListenError, MetricsServer
from forwardpass.server.observe.refusals import Refusals
from forwardpass.server.process.incidents import Incidents
from forwardpass.server.repository.catalog import Catalog, Offer, Version
from forwardpass.server.repository.disk import ModelFile

DOCS = Path(__file__).parents[3] / "docs"
ROW = {"x": np.ones((1, 2), np.float32)}
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def fetch(port: int, path: str = "/metrics", accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as reply:
        text: str = reply.read().decode()
        return text


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
    def requests() -> Iterator[pb.ModelInferRequest]:
        yield infer_request("m", ROW)
        eventually(lambda: value(scrape(server), "streams") == 1)

    assert not any(answer.error_message for answer in stub.stream(requests()))
    eventually(lambda: value(scrape(server), "streams") == 0)


def test_phases_are_histograms_whose_parts_sum_up(server: Server, stub: Stub) -> None:
    for _ in range(50):
        stub.infer(infer_request("m", ROW))

    samples = scrape(server)

    sums = {}
    for phase in ("receive", "decode", "queue", "compute", "encode", "total"):
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
    assert all(sums[phase] > 0 for phase in ("decode", "compute", "encode", "total"))
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


def test_memory_and_queue_stand_by_model(server: Server, stub: Stub) -> None:
    stub.infer(infer_request("m", ROW))
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


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a server that has every metric, in OpenMetrics."""
    folder = tmp_path_factory.mktemp("everything")
    columns = {"x": ColumnNames(labels=("a", "b", "c"), low=(0.0,) * 3, high=(1.0,) * 3)}
    model = onnx_files.linear({INPUTS: dump_columns(columns)})
    onnx_files.save(model, folder / "models" / "linear.onnx")
    authority = Identity.make("authority")
    cert, key = Identity.make("server", authority).write(folder, "server")
    config = Config(
        models=(folder / "models").as_uri(),  # type: ignore[arg-type]
        mirror=folder / "mirror",
        port=0,
        metrics_port=0,
        tls_cert=cert,
        tls_key=key,
        drift_by_feature=True,
    )
    credentials = grpc.ssl_channel_credentials(authority.chain_pem)
    with Server(config) as server, Stub(f"localhost:{server.port}", credentials) as stub:
        eventually(lambda: server.ready)
        stub.infer(infer_request("linear", {"x": np.array([[0.5, 2.0, np.nan]], np.float32)}))
        return fetch(server.metrics_port or 0, accept="application/openmetrics-text; version=1.0.0")


def families(page: str) -> Iterator[Metric]:
    """Yield our own."""
    for family in parse_openmetrics(page):  # type: ignore[no-untyped-call]  # has no types
        if family.name.startswith("forwardpass"):
            yield family


def test_every_metric_is_documented_with_type_and_labels(everything: str) -> None:
    exposed = {}
    for family in families(everything):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = frozenset().union(*(sample.labels for sample in family.samples)) - {"le"}
        kind = "gauge" if family.type == "info" else family.type
        exposed[family.name + suffix] = (kind, labels)

    documented = {}
    for line in (DOCS / "observability.md").read_text().splitlines():
        if line.startswith("| `forwardpass_"):
            name, kind, shown, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
            documented[name.strip("`")] = (kind, frozenset(filter(None, shown.split(", "))))

    assert documented == exposed


NOT_BASE_UNITS = re.compile(
    r"_(ns|us|ms|nanoseconds|microseconds|milliseconds|minutes|hours|days|kb|kib|mb|mib|gb|gib|"
    r"kilobytes|megabytes|bits|percent)(_|$)"
)


def test_names_keep_to_the_conventions_of_prometheus(everything: str) -> None:
    """What `promtool check metrics` and the guide on naming ask for."""
    for family in families(everything):
        name, words = family.name, family.name.split("_")
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name), name
        assert not NOT_BASE_UNITS.search(name), f"{name}: seconds and bytes are the base units"
        # The counter's own is taken off by the format.
        assert not {"total", "count", "sum", "bucket", "info"} & {words[-1]}, name
        assert not {"gauge", "counter", "histogram", "metric"} & set(words), name
        for unit in {"seconds", "bytes"} & set(words):
            assert words[-1] == unit, f"{name}: its unit is its end"
        assert family.documentation.endswith("."), name
        for sample in family.samples:
            assert all(re.fullmatch("[a-z]+", label) for label in sample.labels), sample
            ends = {"counter": {"_total", "_created"}, "gauge": {""}, "info": {"_info"}}.get(
                family.type, {"_bucket", "_count", "_sum", "_created"}
            )
            assert sample.name.removeprefix(name) in ends, sample


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_say(server: Server, stub: Stub) -> None:
    stub.infer(infer_request("m", ROW))
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=fetch(server.metrics_port or 0),
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in checked.stderr.splitlines() if line.startswith("forwardpass")]
    assert not ours


def test_the_certificate_reports_when_it_expires(everything: str) -> None:
    (sample,) = (
        sample
        for family in families(everything)
        for sample in family.samples
        if sample.name == "forwardpass_certificate_expiry_timestamp_seconds"
    )
    # An hour, as the tests' certificates are valid.
    assert 3000 < sample.value - time.time() < 3700


def test_columns_are_distinguished_where_the_operator_wants_it(
    everything: str, tmp_path: Path
) -> None:
    of_columns = {
        (sample.name.removeprefix("forwardpass_feature_"), sample.labels["feature"]): sample.value
        for family in families(everything)
        for sample in family.samples
        if family.name.startswith("forwardpass_feature")
    }
    assert of_columns == {
        ("out_of_range_values_total", "a"): 0,
        ("out_of_range_values_total", "b"): 1,
        ("out_of_range_values_total", "c"): 0,
        ("nan_values_total", "a"): 0,
        ("nan_values_total", "b"): 0,
        ("nan_values_total", "c"): 1,
    }
    columns = {"x": ColumnNames(low=(0.0,) * 3, high=(1.0,) * 3)}
    onnx_files.save(onnx_files.linear({INPUTS: dump_columns(columns)}), tmp_path / "linear.onnx")
    with Server(Config(models=tmp_path, port=0, metrics_port=0)) as server:
        with Stub(server.port) as stub:
            stub.infer(infer_request("linear", {"x": np.ones((1, 3), np.float32)}))
        assert not any("feature" in name for name, _ in scrape(server))


# What a scrape costs

MODELS = 1000
PER_MODEL = 6
"""Series of a version that was never called: calls, three states, refused, memory."""


@pytest.fixture
def many(root: Path) -> Iterator[tuple[Catalog, MetricsServer]]:
    """Metrics of a thousand models that nobody has called."""
    catalog = Catalog()
    path = root / "m" / "1" / "model.onnx"
    model = Model("m", 1, path, bytes_of(path), onnx.load(path).graph, watch_inputs=True)
    for number in range(MODELS):
        each = copy.copy(model)
        each.name, each.statistics = f"model_{number}", Statistics()
        file = ModelFile(each.name, 1, path)
        catalog.put(each.name, Offer({1: Version(file, each)}))
    load = Load(in_flight=0, waiting=0, oldest_ns=0, connections=0, certificate_expires_s=None)
    collector = MetricsCollector(
        catalog,
        Health(),
        Refusals(),
        load=lambda: load,
        open_streams=lambda: 0,
        max_backlog=1,
        max_connections=1,
        incidents=Incidents(),
    )
    server = MetricsServer("127.0.0.1", 0, collector)
    server.start()
    yield catalog, server
    server.stop()


def test_a_thousand_models_that_nobody_calls_cost_six_series_each(
    many: tuple[Catalog, MetricsServer], capsys: pytest.CaptureFixture[str]
) -> None:
    catalog, server = many
    before = time.process_time()
    page = fetch(server.port)
    cpu_s = time.process_time() - before
    samples = [line for line in page.splitlines() if not line.startswith("#")]
    with capsys.disabled():
        print(f"\n{MODELS} models: {len(page)} bytes, {len(samples)} series, {cpu_s:.2f} s of CPU")
    of_models = [line for line in samples if 'model="model_' in line]
    assert len(of_models) == PER_MODEL * MODELS
    assert len(samples) - len(of_models) < 100

    # A call adds the histograms of its version and of no other.
    catalog.get("model_7").answering[1].statistics.answered(1, 1, 1, 1, 1, 1)
    again = [line for line in fetch(server.port).splitlines() if 'model="model_' in line]
    assert {re.search("model_[0-9]+", line)[0] for line in again if "_bucket" in line} == {  # type: ignore[index]
        "model_7"
    }


def test_a_scraper_that_takes_gzip_gets_a_tenth(many: tuple[Catalog, MetricsServer]) -> None:
    _, server = many
    plain = fetch(server.port)
    url = f"http://127.0.0.1:{server.port}/metrics"
    request = urllib.request.Request(url, headers={"Accept-Encoding": "deflate, gzip;q=1.0"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        assert reply.headers["Content-Encoding"] == "gzip"
        packed = reply.read()
    assert len(packed) * 10 < len(plain)
    assert gzip.decompress(packed).decode().count("model_refused{") == MODELS


OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@pytest.mark.parametrize("accept", ["", "text/plain; version=1.0.0", OPEN_METRICS])
def test_a_page_is_byte_for_byte_what_prometheus_client_writes(
    many: tuple[Catalog, MetricsServer], accept: str
) -> None:
    """The page is read by its parser, and written by its encoder."""
    catalog, server = many
    odd = catalog.get("model_7").answering[1]
    odd.name = 'q"uo\\te\n'
    for number, name in enumerate(("model_7", "model_8", "model_9")):
        statistics = catalog.get(name).answering[1].statistics
        for _ in range(1 + 10_000 * number):
            statistics.answered(1, 1, 20_000, 3 * 10**7, 1, 5 * 10**7 * number)
    url = f"http://127.0.0.1:{server.port}/metrics"
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as reply:
        page = reply.read().decode()
    parse = parse_openmetrics if accept == OPEN_METRICS else text_string_to_metric_families
    encode, _ = choose_encoder(accept)
    assert 'phase="total"' in page
    assert r"q\"uo\\te\n" in page
    assert page == encode(Families(list(parse(page)))).decode()


class Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterator[Metric]:
        yield from self.families


@pytest.mark.no_cover  # Measured line by line it takes four times as long.
def test_a_thousand_models_that_were_called_cost_little(
    many: tuple[Catalog, MetricsServer], capsys: pytest.CaptureFixture[str]
) -> None:
    """In CPU time of what writing as many lines by prometheus_client takes."""
    catalog, server = many
    for name in catalog:
        catalog.get(name).answering[1].statistics.answered(1, 1, 1, 1, 1, 1)
    fetch(server.port)
    before = time.process_time()
    page = fetch(server.port)
    ours_s = time.process_time() - before
    families = [
        family
        for family in text_string_to_metric_families(page)
        if family.name == "forwardpass_call_seconds"
    ]
    before = time.process_time()
    choose_encoder("")[0](Families(families))
    theirs_s = time.process_time() - before
    with capsys.disabled():
        print(f"\n{MODELS} called models: {len(page)} bytes, {ours_s:.2f} s of CPU", end="")
        print(f"; their lines alone by the library {theirs_s:.2f} s")
    assert page.count("forwardpass_call_seconds_bucket{") == 6 * 23 * MODELS
    assert ours_s < theirs_s


def test_those_who_ask_together_share_a_page(many: tuple[Catalog, MetricsServer]) -> None:
    _, server = many
    with ThreadPoolExecutor(12) as threads:
        pages = list(threads.map(lambda _: fetch(server.port), range(24)))
    assert all(page.count("model_refused{") == MODELS for page in pages)
    # Of 24 that came in twos at least, none was made for one alone that another waited for.
    assert (
        len({page.split("forwardpass_scrape_cpu_seconds_total ")[1].split()[0] for page in pages})
        < 24
    )


def test_others_run_while_a_page_is_made(many: tuple[Catalog, MetricsServer]) -> None:
    """A thread that wants to run gets to it every few samples, not every 5 ms."""
    _, server = many
    turns = 0
    done = Event()

    def run() -> None:
        nonlocal turns
        while not done.is_set():
            # Gives Python's lock back at once, as a thread does that waits for a socket.
            time.sleep(0)
            turns += 1

    thread = Thread(target=run)
    thread.start()
    fetch(server.port)
    done.set()
    thread.join()
    # Each pause of the page lets it run once at least.
    assert turns > PER_MODEL * MODELS / 32 / 2


# What there is to do now


@pytest.mark.usefixtures("transport")
def test_calls_in_flight_and_connections_show(repository: Path) -> None:
    config = Config(models=repository, port=0, metrics_port=0, limits=Limits(general=True))
    with Server(config) as server, Stub(server.port) as stub:
        stub.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)
        eventually(lambda: value(scrape(server), "connections") == 1)
        assert value(scrape(server), "connections_limit") == 10_000
        turns = infer_request("slow", {"turns": np.array(2000)})
        calls = [stub.method("ModelInfer", pb.ModelInferResponse).future(turns) for _ in range(8)]
        eventually(lambda: value(scrape(server), "calls_in_flight") == 8)
        for call in calls:
            call.cancel()
    until_idle()


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


def test_a_port_that_is_taken_is_reported_at_the_start(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MetricsListenError, match=f"{port} for metrics: .* another --metrics"):
            Server(Config(models=root, port=0, metrics_port=port))


def test_the_port_is_free_again_after_the_end(root: Path) -> None:
    with Server(Config(models=root, port=0, metrics_port=0)) as server:
        port = server.metrics_port
    with pytest.raises(urllib.error.URLError):
        fetch(port or 0)
