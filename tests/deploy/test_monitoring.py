"""Dashboard and alerts ask for metrics that a server has."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support import onnx_files
from support.certificates import write_self_signed
from support.idle import until_idle
from support.rpc import Stub
from support.wire import infer_request

from forwardpass.client import Client
from forwardpass.models import Dense, Input, Network, publish
from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.guard import Limits
from forwardpass.server.health import Health
from forwardpass.server.process.incidents import Incidents
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.workers.figures import Figures
from forwardpass.server.workers.scrape import SummedCollector

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "forwardpass.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
NAME = re.compile(r"\b(?:forwardpass|process)_\w+")


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all samples of servers that were called."""
    root = tmp_path_factory.mktemp("models")
    ranged = Input(1, low=[0.0], high=[1.0])
    publish(Network.define(ranged, [Dense("y", 1, "identity")], name="m", seed=0), root)
    cert, key = write_self_signed(tmp_path_factory.mktemp("certificate"))
    config = Config(models=root, port=0, metrics_port=0, tls_cert=cert, tls_key=key)
    with Server(config) as server:
        with Client(f"localhost:{server.port}", tls=True, ca_file=cert) as client:
            client.predict("m", [[2.0]])
        names = {sample.name for sample in scrape(server)}
    # Those of a server of several processes.
    summed = SummedCollector(config, Catalog(), Health(), Incidents(), Figures, lambda: (2, 0))
    return names | {sample.name for family in summed.collect() for sample in family.samples}


class Sample(NamedTuple):
    """A figure of a page of metrics."""

    name: str
    labels: Mapping[str, str]
    value: float


def scrape(server: Server) -> list[Sample]:
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return [
            Sample(sample.name, sample.labels, sample.value)
            for family in families
            for sample in family.samples
        ]


def test_every_metric_of_a_panel_exists(exposed: set[str]) -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            assert set(NAME.findall(target["expr"])) <= exposed, panel["title"]


def test_every_metric_of_an_alert_exists(exposed: set[str]) -> None:
    (group,) = ALERTS["groups"]
    for rule in group["rules"]:
        assert set(NAME.findall(rule["expr"])) <= exposed, rule["alert"]


def test_the_dashboard_shows_what_an_operator_asks_for() -> None:
    asked = " ".join(t["expr"] for panel in DASHBOARD["panels"] for t in panel["targets"])
    for metric in (
        "forwardpass_calls_total",
        "forwardpass_call_seconds_bucket",
        "forwardpass_batch_rows",
        "forwardpass_queue_calls",
        "forwardpass_model_state",
        "process_resident_memory_bytes",
    ):
        assert metric in asked


def test_panels_do_not_lie_on_each_other_and_use_the_provisioned_data_source() -> None:
    source = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text()
    )["datasources"][0]["uid"]
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        covered = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not covered & cells
        cells |= covered
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {source}


# Overload


class Alert(NamedTuple):
    """An alert as the test evaluates it: of one metric, with a rate or as it is."""

    metric: str
    without: str
    """Pattern of values of the label `reason` that do not count."""
    threshold: float


def alert(name: str) -> Alert:
    """Read the expression of an alert; asserts that it has the form that is evaluated here."""
    (group,) = ALERTS["groups"]
    (expr,) = (rule["expr"] for rule in group["rules"] if rule["alert"] == name)
    gauge = re.fullmatch(r"max by \(instance\) \((\w+)\) > ([\d.]+)", expr)
    if gauge is not None:
        return Alert(gauge[1], "", float(gauge[2]))
    counter = re.fullmatch(
        r'sum by \(instance, reason\) \(rate\((\w+)\{reason!~"([\w|]+)"\}\[\w+\]\)\) > ([\d.]+)',
        expr,
    )
    assert counter is not None, expr
    return Alert(counter[1], counter[2], float(counter[3]))


def figure(samples: list[Sample], metric: str, without: str = "") -> float:
    """Return the largest value of a metric."""
    return max(
        sample.value
        for sample in samples
        if sample.name == metric
        and not (without and re.fullmatch(without, sample.labels.get("reason", "")))
    )


def scaling() -> tuple[str, float]:
    """Return the metric that the autoscaler looks at, and the figure above which it adds pods."""
    documents = yaml.safe_load_all(
        (DEPLOY / "kubernetes" / "base" / "server" / "server.yaml").read_text()
    )
    (scaler,) = (each for each in documents if each["kind"] == "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    thousandths = re.fullmatch(r"(\d+)m", metric["pods"]["target"]["averageValue"])
    assert thousandths is not None
    return metric["pods"]["metric"]["name"], int(thousandths[1]) / 1000


@pytest.fixture
def overloaded(tmp_path: Path) -> Iterator[tuple[Server, Stub]]:
    """A server of a model that takes tenths of a second a call, and has room for 100 that wait."""
    onnx_files.save(onnx_files.slow(), tmp_path / "models" / "slow.onnx")
    config = Config(
        models=tmp_path / "models",
        port=0,
        metrics_port=0,
        workers=4,
        max_backlog=100,
        max_queue=100,
        limits=Limits(general=True),
    )
    with Server(config) as server, Stub(server.port) as stub:
        yield server, stub
    until_idle()


@pytest.mark.usefixtures("transport")
def test_under_overload_the_alerts_fire_and_the_autoscaler_adds_pods(
    overloaded: tuple[Server, Stub],
) -> None:
    server, stub = overloaded
    waits, sheds = alert("ForwardpassOverloaded"), alert("ForwardpassSheds")
    scaled_by, above = scaling()
    quiet = scrape(server)
    assert figure(quiet, waits.metric) == 0
    assert figure(quiet, scaled_by) == 0
    infer = stub.method("ModelInfer", pb.ModelInferResponse)
    # Some tenths of a millisecond a turn.
    request = infer_request("slow", {"turns": np.array(1000)})
    calls = [infer.future(request) for _ in range(300)]
    try:
        deadline = time.monotonic() + 30
        while True:
            samples = scrape(server)
            fires = figure(samples, waits.metric) > waits.threshold
            shed = figure(samples, sheds.metric, sheds.without)
            if fires and shed > sheds.threshold and figure(samples, scaled_by) > above:
                break
            assert time.monotonic() < deadline, samples
            time.sleep(0.05)
    finally:
        for call in calls:
            call.cancel()
