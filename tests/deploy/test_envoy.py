"""The two configurations of Envoy."""

import re
from pathlib import Path
from typing import Any

import yaml

from forwardpass.server.transport.http2.limits import ConnectionLimits

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "envoy"
COMPOSE = ROOT / "docker-compose.yml"


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


def test_what_stands_between_caller_and_server_is_set_and_not_left_to_defaults() -> None:
    plain = read("plain.yaml")
    (layer,) = plain["layered_runtime"]["layers"]
    assert layer["static_layer"]["overload.premature_reset_total_stream_count"] >= 2**32 - 1
    listener, cluster = plain["static_resources"]["listeners"][0], clusters(plain)["server"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    streams = manager["http2_protocol_options"]["max_concurrent_streams"]
    # All calls of a connection may end by a deadline of 0.1 s at once, again and again.
    assert manager["http2_protocol_options"]["stream_reset_burst"] >= 2 * streams
    assert manager["http2_protocol_options"]["stream_reset_rate"] >= 10 * streams
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert route["request_body_buffer_limit"] == 2**20
    (threshold,) = cluster["circuit_breakers"]["thresholds"]
    assert threshold["retry_budget"]["min_retry_concurrency"] >= 256
    # The rest of these are on by default.
    off = {name: value for name, value in cluster["outlier_detection"].items() if value == 0}
    assert off.keys() == {
        "enforcing_consecutive_5xx",
        "enforcing_consecutive_gateway_failure",
        "enforcing_success_rate",
        "enforcing_local_origin_success_rate",
    }


def clusters(configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in configuration["static_resources"]["clusters"]}


def test_a_server_lets_envoy_ping_it_as_often_as_envoy_does() -> None:
    options = clusters(read("plain.yaml"))["server"]["typed_extension_protocol_options"]
    (protocol,) = options.values()
    http2 = protocol["explicit_http_config"]["http2_protocol_options"]
    assert seconds(http2["connection_keepalive"]["interval"]) > ConnectionLimits.min_ping_s


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_envoy_takes_no_more_memory_than_its_container_has() -> None:
    overload = read("plain.yaml")["overload_manager"]
    heap = overload["resource_monitors"][0]["typed_config"]["max_heap_size_bytes"]
    service = yaml.safe_load(COMPOSE.read_text())["services"]["envoy"]
    limit = service["deploy"]["resources"]["limits"]["memory"]
    assert heap < int(limit.removesuffix("M")) * 2**20
    # And has time to drain.
    script = (FOLDER / "run.sh").read_text()
    waits = re.findall(r"_s=\$\{[A-Z]+_S:-(\d+)\}", script)
    assert len(waits) == 2
    assert seconds(service["stop_grace_period"]) > sum(map(int, waits))
