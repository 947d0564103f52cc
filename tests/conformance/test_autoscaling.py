"""What the autoscalers of deploy/ ask a real Prometheus, which scrapes real servers under load."""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conformance.conftest import running, wait_for
from conformance.environments import ROOT, debian
from support import onnx_files
from support.ports import free_ports
from support.rpc import Stub
from support.waiting import eventually
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.guard import Limits

DEPLOY = ROOT / "deploy"
(RULE,) = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yaml").read_text())["rules"]["custom"]
(SCALER,) = (
    each["spec"]
    for each in yaml.safe_load_all(
        (DEPLOY / "kubernetes" / "base" / "server" / "server.yaml").read_text()
    )
    if each["kind"] == "HorizontalPodAutoscaler"
)
KEDA = yaml.safe_load((DEPLOY / "kubernetes" / "components" / "keda" / "scaler.yaml").read_text())[
    "spec"
]["triggers"][0]["metadata"]
BUSY, IDLE = "forwardpass-busy", "forwardpass-idle"


def adapter_query(series: str, pods: list[str]) -> str:
    """Write the query that prometheus-adapter makes of its rule for pods of a namespace.

    Source: prometheus-adapter, docs/config.md, "Querying".
    """
    query: str = RULE["metricsQuery"]
    labels = {each["resource"]: label for label, each in RULE["resources"]["overrides"].items()}
    matchers = f'{labels["namespace"]}="models",{labels["pod"]}=~"{"|".join(pods)}"'
    parts = {"Series": series, "LabelMatchers": matchers, "GroupBy": labels["pod"]}
    for name, text in parts.items():
        query = query.replace(f"<<.{name}>>", text)
    assert "<<" not in query
    return query


class Prometheus:
    """One that is asked over its HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/query"

    def query(self, expression: str) -> list[dict[str, Any]]:
        url = f"{self._url}?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def of_pods(self, expression: str) -> dict[str, float]:
        """Return the value of each pod."""
        return {e["metric"]["pod"]: float(e["value"][1]) for e in self.query(expression)}


@contextmanager
def prometheus(pods: dict[str, int | None], folder: Path) -> Iterator[Prometheus]:
    """Run Debian's Prometheus over ports of metrics, with the labels that a PodMonitor adds."""
    (port,) = free_ports(1)
    targets = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "models", "pod": pod}}
        for pod, port in pods.items()
    ]
    config, log = folder / "prometheus.yaml", folder / "log"
    scrape = {"job_name": "forwardpass", "scrape_interval": "1s", "static_configs": targets}
    config.write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    command: list[str | Path] = [debian("prometheus") / "usr" / "bin" / "prometheus"]
    command += [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    made = Prometheus(port)

    def scraped() -> bool:
        try:
            return len(made.query("up == 1")) == len(pods)
        except OSError:
            return False

    with running(command, log) as process:
        wait_for(scraped, process, log)
        yield made


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    onnx_files.save(onnx_files.slow(), tmp_path / "models" / "slow" / "1" / "model.onnx")
    return tmp_path / "models"


def test_what_the_autoscalers_ask_for_is_0_without_load_and_above_their_threshold_under_it(
    repository: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"models": repository, "port": 0, "metrics_port": 0}
    config = Config(**settings, workers=4, limits=Limits(general=True))
    (metric,) = SCALER["metrics"]
    name, target = metric["pods"]["metric"]["name"], metric["pods"]["target"]["averageValue"]
    threshold = int(target.removesuffix("m")) / 1000
    asked = adapter_query(name, [BUSY, IDLE])
    with (
        Server(config) as busy,
        Server(config) as idle,
        Stub(busy.port) as stub,
        prometheus({BUSY: busy.metrics_port, IDLE: idle.metrics_port}, tmp_path) as found,
    ):
        # How the adapter finds out that there is such a metric.
        eventually(lambda: found.of_pods(RULE["seriesQuery"]).keys() == {BUSY, IDLE})
        assert found.of_pods(asked) == {BUSY: 0, IDLE: 0}
        (sample,) = found.query(KEDA["query"])
        assert float(sample["value"][1]) == 0

        infer = stub.method("ModelInfer", pb.ModelInferResponse)
        request = infer_request("slow", {"turns": np.array(1000)})
        calls = [infer.future(request) for _ in range(300)]
        deadline = time.monotonic() + 120
        try:
            while True:
                waits = found.of_pods(asked)
                (sample,) = found.query(KEDA["query"])
                # KEDA's is a sum, for one server of two that are not idle.
                if waits[BUSY] > threshold < float(sample["value"][1]):
                    break
                assert time.monotonic() < deadline, found.of_pods(name)
                time.sleep(0.2)
        finally:
            for call in calls:
                call.cancel()
        assert waits[IDLE] == 0
        # And none waits any more: the average of a minute follows.
        eventually(lambda: found.of_pods(name) == {BUSY: 0, IDLE: 0})
