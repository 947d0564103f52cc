"""Where a call comes from: what of its metadata is taken."""

import pytest
from support.rpc import Stub
from support.served import GOOD

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.observe.origin import NOWHERE, Origin, origin_of

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def nobody() -> str:
    raise AssertionError("asked for the peer, which costs")


def test_without_an_id_and_unobserved_nothing_is_made() -> None:
    assert origin_of([("user-agent", "x")], nobody, observed=False) is NOWHERE


def test_a_callers_id_is_kept_though_nobody_looks() -> None:
    metadata = [("x-request-id", "abc-1"), ("traceparent", TRACE)]

    assert origin_of(metadata, nobody, observed=False) == Origin("abc-1")


def test_of_several_ids_the_first_counts() -> None:
    ids = [("x-request-id", "a"), ("x-request-id", "b")]
    assert origin_of(ids, lambda: "", observed=False).request_id == "a"


def test_who_looks_sees_all_of_it() -> None:
    metadata = [("x-request-id", "abc-1"), ("traceparent", TRACE), ("tracestate", "a=b")]

    found = origin_of(metadata, lambda: "ipv4:1.2.3.4:5", observed=True)

    assert found == Origin("abc-1", "ipv4:1.2.3.4:5", TRACE, "a=b")


def test_who_looks_gets_an_id_of_each_call() -> None:
    ids = {origin_of([], str, observed=True).request_id for _ in range(1000)}

    assert len(ids) == 1000


@pytest.mark.parametrize(
    "sent", ["", "two words", "two\nlines", "\x1b[31m", "x" * 129, "größe", b"\x00\x01"]
)
def test_what_could_spoil_a_log_is_no_id(sent: str | bytes) -> None:
    metadata = [("x-request-id", sent)]

    assert origin_of(metadata, nobody, observed=False) is NOWHERE
    assert origin_of(metadata, str, observed=True).request_id not in ("", sent)


def test_each_call_gets_its_own_id_back_whatever_came_before_on_its_connection(
    stub: Stub,
) -> None:
    call = stub.method("ModelInfer", pb.ModelInferResponse)
    for sent in ("a", "b", None, "a", "two words", "b"):
        metadata = [] if sent is None else [("x-request-id", sent)]
        reply, ended = call.with_call(GOOD["linear"].request(), metadata=metadata, timeout=20)
        assert reply.model_name == "linear"
        returned = [value for key, value in ended.trailing_metadata() if key == "x-request-id"]
        assert returned == ([sent] if sent in ("a", "b") else [])
