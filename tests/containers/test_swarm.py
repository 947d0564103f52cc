"""The same docker-compose.yml on a swarm: scaled and updated under load, without a failed call."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from containers.load import load
from containers.machine import ROOT, Machine, until
from containers.stack import Prometheus, port_settings, until_answered

from forwardpass.client import Client

NAME = "forwardpass-swarm"


@contextmanager
def swarm(host: Machine) -> Iterator[Machine]:
    """Make this machine a swarm of one while the block runs."""
    host.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    # No image can be pulled, so none can be resolved; Grafana's is not there at all.
    settings = {**host.settings, **port_settings(), "GRAFANA_REPLICAS": "0"}
    made = Machine(settings)
    try:
        yield made
    finally:
        made.docker("stack", "rm", NAME)
        until(lambda: not containers(made), within_s=120, told="the stack stays")
        made.docker("swarm", "leave", "--force")
        made.docker("volume", "rm", *(f"{NAME}_{name}" for name in ("models", "prometheus")))


def containers(machine: Machine) -> list[str]:
    label = f"label=com.docker.stack.namespace={NAME}"
    return machine.docker("ps", "-aq", "--filter", label).split()


def replicas(machine: Machine, service: str) -> str:
    """Those that run, of those that should: `3/3`."""
    name = f"name={NAME}_{service}"
    return machine.docker("service", "ls", "--filter", name, "--format", "{{.Replicas}}")


@pytest.fixture(scope="module")
def deployed(host: Machine) -> Iterator[Machine]:
    with swarm(host) as machine:
        # Clients older than Docker 25 ask for a version.
        files = []
        for name in ("docker-compose.yml", "docker-compose.swarm.yml"):
            # Beside the files that it names.
            copy = ROOT / f".{name}"
            copy.write_text(f'version: "3.9"\n{(ROOT / name).read_text()}')
            files.append(copy)
        try:
            machine.run(
                *("docker", "stack", "deploy", "--resolve-image", "never"),
                *(part for file in files for part in ("-c", file)),
                NAME,
            )
        finally:
            for file in files:
                file.unlink()
        # A swarm's own ports and addresses need a kernel with IPVS, which a small virtual machine
        # may lack.
        for service, setting, target in (
            ("envoy", "PORT", 8001),
            ("prometheus", "PROMETHEUS_PORT", 9090),
        ):
            published = f"mode=host,published={machine.settings[setting]},target={target}"
            change = (
                "--publish-rm",
                str(target),
                "--publish-add",
                published,
                "--endpoint-mode",
                "dnsrr",
            )
            machine.docker("service", "update", *change, f"{NAME}_{service}")
        until(lambda: replicas(machine, "server") == "3/3", within_s=120)
        with Client(f"localhost:{machine.settings['PORT']}") as client:
            until_answered(client)
        yield machine


def test_prometheus_finds_every_replica(deployed: Machine) -> None:
    prometheus = Prometheus(int(deployed.settings["PROMETHEUS_PORT"]))
    expected = {"forwardpass": ["up"] * 3, "envoy": ["up"]}
    until(lambda: prometheus.targets() == expected, within_s=90, told=prometheus.targets)


def state(machine: Machine) -> str:
    status = machine.docker("service", "inspect", "-f", "{{json .UpdateStatus}}", f"{NAME}_server")
    return str((json.loads(status) or {}).get("State", ""))


def test_scaling_out_and_in_under_load_fails_no_call(deployed: Machine, figures: list[str]) -> None:
    port = int(deployed.settings["PORT"])
    with load(port, retrying=False) as calls:
        for count in (5, 2, 3):
            deployed.docker("service", "scale", f"{NAME}_server={count}")

            def scaled(count: int = count) -> bool:
                return replicas(deployed, "server") == f"{count}/{count}"

            until(scaled, within_s=120)

            def answered(goal: int = calls.answered + 500) -> bool:
                return calls.answered >= goal

            until(answered, within_s=120)
        # Those that go drain first.
        until(lambda: len(running(deployed)) == 3, within_s=120)
    calls.assert_none_failed(at_least=1500)
    figures.append(f"swarm, scaled 3-5-2-3: 0 of {calls.answered} calls failed, without retries")


def running(machine: Machine) -> list[str]:
    name = f"label=com.docker.swarm.service.name={NAME}_server"
    return machine.docker("ps", "-q", "--filter", name).split()


def test_a_rolling_update_under_load_fails_none_of_15_000_calls(
    deployed: Machine, figures: list[str]
) -> None:
    before = set(running(deployed))
    with load(int(deployed.settings["PORT"]), retrying=False) as calls:
        update = ("service", "update", "--env-add", "FORWARDPASS_MAX_QUEUE=1000")
        deployed.docker(*update, f"{NAME}_server")
        # The command returns when the tasks run, before the swarm has watched the last one.
        until(lambda: state(deployed) == "completed", within_s=300, told=lambda: state(deployed))
        until(lambda: calls.answered + len(calls.failed) >= 15_000, within_s=400)
        until(lambda: len(running(deployed)) == 3, within_s=120)
    assert not before & set(running(deployed))
    calls.assert_none_failed(at_least=15_000)
    figures.append(f"swarm, rolling update: 0 of {calls.answered} calls failed, without retries")
