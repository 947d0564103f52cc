"""The stack of docker-compose.yml, and what Prometheus knows of it."""

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from containers.machine import Machine, until
from support.ports import free_ports

from forwardpass.client import Client, ServerUnavailableError

SERVICES = ("server", "envoy", "prometheus")
"""All but Grafana, whose image is nowhere to be had without a registry."""


def port_settings() -> dict[str, str]:
    """Variables of docker-compose.yml, so that no port is one of the machine's own."""
    names = ("PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
    return dict(zip(names, map(str, free_ports(len(names))), strict=True))


@dataclass(frozen=True)
class Prometheus:
    """Asked over its HTTP API."""

    port: int

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression gives now; NaN (0 of 0) is none."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return [sample for sample in found if sample["value"][1] != "NaN"]

    def targets(self) -> dict[str, list[str]]:
        """The health of every target, by job."""
        found: dict[str, list[str]] = {}
        for target in self._get("targets")["activeTargets"]:
            found.setdefault(target["labels"]["job"], []).append(target["health"])
        return found

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]


@dataclass(frozen=True)
class Stack:
    """A stack that is up."""

    machine: Machine
    project: str
    files: tuple[str, ...] = ()

    @property
    def port(self) -> int:
        return int(self.machine.settings["PORT"])

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(int(self.machine.settings["PROMETHEUS_PORT"]))

    def compose(self, *arguments: str) -> str:
        files = [part for file in self.files for part in ("-f", file)]
        return self.machine.run("docker-compose", *files, *arguments)

    def servers(self) -> list[str]:
        return self.compose("ps", "-q", "server").split()

    def healthy(self) -> int:
        """How many containers of the server are."""
        states = [
            self.machine.docker("inspect", "-f", "{{.State.Health.Status}}", each, check=False)
            for each in self.servers()
        ]
        return states.count("healthy")

    def kill(self, container: str) -> None:
        """End a server as a crash would: behind Docker's back."""
        os.kill(int(self.machine.docker("inspect", "-f", "{{.State.Pid}}", container)), 9)

    @contextmanager
    def paused(self, container: str) -> Iterator[None]:
        """Stop a server's processes for a while: its kernel still takes connections and bytes."""
        self.machine.docker("pause", container)
        try:
            yield
        finally:
            self.machine.docker("unpause", container)

    @contextmanager
    def beside_the_servers(self, program: str) -> Iterator[None]:
        """Run a program in a container that has the servers' name, too, for a while."""
        network = ("--network", f"{self.project}_inside", "--network-alias", "server")
        image = self.machine.settings["FORWARDPASS_IMAGE"]
        command = ("--entrypoint", "python", image, "-c", program)
        container = self.machine.docker("run", "-d", *network, *command)
        try:
            yield
        finally:
            self.machine.docker("rm", "-f", container)

    def publish(self, program: str) -> None:
        """Run a program where the volume of the models can be written."""
        self.machine.python(program, "-v", f"{self.project}_models:/models")


@contextmanager
def stack(
    machine: Machine, project: str, files: tuple[str, ...] = (), **env: str
) -> Iterator[Stack]:
    """Bring the stack up while the block runs; remove it and its volumes at the end."""
    settings = {**machine.settings, **port_settings(), "COMPOSE_PROJECT_NAME": project, **env}
    made = Stack(Machine(settings), project, files)
    try:
        made.compose("up", "-d", "--no-build", *SERVICES)
        until(
            lambda: made.healthy() == 3, within_s=120, told=lambda: made.compose("logs", "server")
        )
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "1")


def until_answered(client: Client) -> None:
    """Wait until Envoy has found a server that is ready."""

    def answered() -> bool:
        try:
            return client.ready()
        except ServerUnavailableError:
            return False

    until(answered, within_s=60, told="no server is ready behind Envoy")
