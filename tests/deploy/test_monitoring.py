"""Dashboard and alerts ask for metrics that a server has."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from forwardpass.client import Client
from forwardpass.models import Dense, Input, Network, publish
from forwardpass.server.app import Server
from forwardpass.server.config import Config

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "forwardpass.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
NAME = re.compile(r"\b(?:forwardpass|process)_\w+")


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all samples of a server that was called."""
    root = tmp_path_factory.mktemp("models")
    ranged = Input(1, low=[0.0], high=[1.0])
    publish(Network.define(ranged, [Dense("y", 1, "identity")], name="m", seed=0), root)
    with Server(Config(models=root, port=0, metrics_port=0)) as server:
        with Client(f"127.0.0.1:{server.port}") as client:
            client.predict("m", [[2.0]])
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=20) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {sample.name for family in families for sample in family.samples}


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
