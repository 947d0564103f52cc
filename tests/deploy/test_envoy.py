"""The two configurations of Envoy."""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "envoy"


def read(name: str) -> dict[str, Any]:
    configuration: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return configuration


def test_with_tls_is_without_plus_tls_on_both_sides() -> None:
    tls = read("tls.yaml")
    resources = tls["static_resources"]
    outside = resources["listeners"][0]["filter_chains"][0].pop("transport_socket")
    inside = resources["clusters"][0].pop("transport_socket")
    assert tls == read("plain.yaml")
    for socket, context in ((outside, "DownstreamTlsContext"), (inside, "UpstreamTlsContext")):
        assert socket["typed_config"]["@type"].endswith(context)
        # gRPC refuses a connection that did not agree on HTTP/2.
        assert socket["typed_config"]["common_tls_context"]["alpn_protocols"] == ["h2"]
    # Without a name to match, any certificate of the authority would do for a server.
    (authority,) = read("authority.yaml")["resources"]
    assert authority["validation_context"]["match_typed_subject_alt_names"]


def test_whoever_reaches_envoy_does_not_reach_its_administration() -> None:
    plain = read("plain.yaml")
    assert plain["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    (metrics,) = (
        each for each in plain["static_resources"]["listeners"] if each["name"] == "metrics"
    )
    manager = metrics["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    # Exact paths, none of which changes anything.
    assert [route["match"] for route in host["routes"]] == [
        {"path": "/ready"},
        {"path": "/stats/prometheus"},
    ]
