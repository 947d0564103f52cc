"""docker-compose.yml and its overrides, as far as they can be read."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    # Ours has one in its image; the one that ends needs none.
    assert name in ("models", "server") or service["healthcheck"]["test"]


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


def test_a_server_has_time_for_all_of_its_drain_and_grace() -> None:
    config = Config(models=Path())
    given = float(SERVICES["server"]["stop_grace_period"].removesuffix("s"))
    assert given > config.drain_s + config.grace_s


def test_every_variable_stands_in_the_documentation_with_its_default() -> None:
    variables = set()
    for file in FILES:
        variables |= set(re.findall(r"\$\{(\w+):-([^}]*)\}", file.read_text()))
    assert len(variables) == 10
    for name, default in variables:
        row = rf"\| `{name}` \| {re.escape(default)} \||`{name}` \({re.escape(default)}\)"
        assert re.search(row, DOCUMENTATION), f"{name}, {default}"


def test_every_alert_stands_in_the_documentation() -> None:
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
    names = {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}
    table = DOCUMENTATION[DOCUMENTATION.index("| alert | when |") :]
    assert set(re.findall(r"`(\w+)`", table)) == names
