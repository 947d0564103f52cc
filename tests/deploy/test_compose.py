"""docker-compose.yml and its overrides, as far as they can be read."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from forwardpass.server.access.host_names import HostNames
from forwardpass.server.config import Config

ROOT = Path(__file__).parents[2]
DOCUMENTATION = (ROOT / "docs" / "deploy.md").read_text()
FILES = sorted(ROOT.glob("docker-compose*.yml"))
BASE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = BASE["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded_watched_and_without_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys()
    assert service["restart"] in ("unless-stopped", "on-failure")
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    # Ours has one in its image; the one that ends needs none.
    assert name in ("models", "server") or service["healthcheck"]["test"]


def test_the_processes_of_every_service_are_limited_on_one_machine_and_on_a_swarm() -> None:
    machine = yaml.safe_load((ROOT / "docker-compose.override.yml").read_text())["services"]
    swarm = yaml.safe_load((ROOT / "docker-compose.swarm.yml").read_text())["services"]
    limits = {name: service["pids_limit"] for name, service in machine.items()}
    assert limits.keys() == SERVICES.keys()
    assert {
        name: service["deploy"]["resources"]["limits"]["pids"] for name, service in swarm.items()
    } == limits
    # Threads count as processes: those for calls, and for streams.
    config = Config(models=Path())
    assert limits["server"] > config.workers + 2 * config.max_streams + 64


def test_a_swarm_and_an_old_compose_can_read_the_base() -> None:
    assert "version" not in BASE
    for service in SERVICES.values():
        assert not {"depends_on", "build", "profiles"} & service.keys()


def test_servers_read_models_and_reach_nobody() -> None:
    server = SERVICES["server"]
    assert server["volumes"] == ["models:/models:ro"]
    assert server["networks"] == ["inside"]
    assert BASE["networks"]["inside"] == {"internal": True}
    assert "ports" not in server


def test_rest_is_off_unless_asked_for_and_then_for_callers_of_this_machine() -> None:
    assert "FORWARDPASS_HTTP_PORT" not in SERVICES["server"]["environment"]
    asked = yaml.safe_load((ROOT / "docker-compose.rest.yml").read_text())["services"]
    settings, envoy = asked["server"]["environment"], asked["envoy"]
    assert "ports" not in asked["server"]
    assert envoy["ports"] == ["${BIND:-127.0.0.1}:${HTTP_PORT:-8000}:8000"]
    added = yaml.safe_load(envoy["command"][-1])["static_resources"]
    (listener,), (cluster,) = added["listeners"], added["clusters"]
    assert listener["address"]["socket_address"]["port_value"] == 8000
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = endpoints["lb_endpoints"]
    socket = endpoint["endpoint"]["address"]["socket_address"]
    assert socket == {"address": "server", "port_value": settings["FORWARDPASS_HTTP_PORT"]}
    # Pages in a browser reach a port of loopback by any name that leads there.
    names = HostNames.parse(settings["FORWARDPASS_HTTP_HOST_NAMES"].rpartition(":-")[2][:-1])
    assert names
    (check,) = cluster["health_checks"]
    assert names.allow(check["http_health_check"]["host"])


def test_a_server_has_time_for_all_of_its_drain_and_grace() -> None:
    config = Config(models=Path())
    given = float(SERVICES["server"]["stop_grace_period"].removesuffix("s"))
    assert given > config.drain_s + config.grace_s


def test_every_variable_is_documented_with_its_default() -> None:
    variables = set()
    for file in FILES:
        variables |= set(re.findall(r"\$\{(\w+):-([^}]*)\}", file.read_text()))
    assert len(variables) == 12
    for name, default in variables:
        row = rf"\| `{name}` \| {re.escape(default)} \||`{name}` \({re.escape(default)}\)"
        assert re.search(row, DOCUMENTATION), f"{name}, {default}"


def test_every_alert_is_documented() -> None:
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
    names = {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}
    table = DOCUMENTATION[DOCUMENTATION.index("| alert | when |") :]
    assert set(re.findall(r"`(\w+)`", table)) == names
