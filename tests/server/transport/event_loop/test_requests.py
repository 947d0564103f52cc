"""What a request's fields mean to a gRPC server, and how answers are written."""

from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http2 import REQUEST

from forwardpass.server.errors import InvalidRequestError, ShuttingDownError
from forwardpass.server.transport.event_loop.answers import HEAD, OK, trailers
from forwardpass.server.transport.event_loop.requests import Request
from forwardpass.server.transport.http2.fields import FieldBlock, encode_fields

METHODS = {b"/s/m": print}


def read(**fields: str) -> Request:
    values = dict(REQUEST) | {":path": "/s/m"}
    values |= {name.replace("_", "-"): value for name, value in fields.items()}
    return Request(
        FieldBlock([(name.encode(), value.encode()) for name, value in values.items()]), METHODS
    )


def decoded(block: bytes) -> dict[str, str]:
    fields: Any = hpack.Decoder().decode(block)  # text, unless raw=True
    return dict(fields)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1H", 3600.0),
        ("2M", 120.0),
        ("3S", 3.0),
        ("250m", 0.25),
        ("99999999u", 99.999999),
        ("5n", 5e-9),
        ("0S", 0.0),
        ("", None),
        ("5", None),
        ("S", None),
        ("5x", None),
        ("-5S", None),
        ("1.5S", None),
        ("123456789S", None),
    ],
)
def test_a_timeout_is_read_and_what_is_none_is_none(text: str, seconds: float | None) -> None:
    assert read(grpc_timeout=text).timeout_s == (
        None if seconds is None else pytest.approx(seconds)
    )


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({":method": "GET"}, {":status": "405"}),
        ({"content-type": "text/html"}, {":status": "415"}),
        ({"content-type": "application/grpc+json"}, {":status": "415"}),
        ({":path": "/s/other"}, {":status": "200", "grpc-status": "12"}),
        ({"grpc-encoding": "br"}, {":status": "200", "grpc-status": "12"}),
        ({"x": "v" * 17_000}, {":status": "200", "grpc-status": "8"}),
    ],
)
def test_what_is_no_call_is_answered_at_once(
    fields: dict[str, str], answer: dict[str, str]
) -> None:
    request = read(**fields)
    assert request.method is None
    assert answer.items() <= decoded(request.refusal).items()


@pytest.mark.parametrize(
    "content_type", ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"]
)
def test_grpcs_content_types_are_taken(content_type: str) -> None:
    assert read(content_type=content_type).method is print


def test_a_reply_may_be_compressed_if_the_caller_accepts_it() -> None:
    assert read(grpc_encoding="gzip", grpc_accept_encoding="identity, gzip").compresses
    assert not read(grpc_encoding="gzip", grpc_accept_encoding="identity,deflate").compresses
    assert not read(grpc_accept_encoding="identity, gzip").compresses
    assert not read().compresses


def test_binary_metadata_are_decoded_with_or_without_padding() -> None:
    request = read(key_bin="AAEC", other_bin="/w==", short_bin="/w", plain="text")
    assert request.metadata("key-bin") == b"\0\1\2"
    assert request.metadata("other-bin") == request.metadata("short-bin") == b"\xff"
    assert request.metadata("plain") == "text"
    assert request.metadata("none") is None


@given(st.text(max_size=50))
def test_a_status_message_survives_its_encoding(text: str) -> None:
    from urllib.parse import unquote_to_bytes

    error = InvalidRequestError("field", text)
    fields = decoded(trailers(error, alone=True))
    told = unquote_to_bytes(fields["grpc-message"]).decode()
    assert told == str(error).encode("utf-8", "replace").decode()
    assert fields["grpc-message"].isprintable()


def test_an_error_alone_has_the_fields_of_an_answer() -> None:
    alone, behind = trailers(ShuttingDownError(), alone=True), trailers(ShuttingDownError())
    assert decoded(alone).keys() - decoded(behind).keys() == {":status", "content-type"}
    assert decoded(behind)["grpc-status"] == "14"


FIELDS = st.lists(
    st.tuples(st.sampled_from([":status", "content-type", "x-key", "server"]), st.text(max_size=9))
)


@given(FIELDS)
def test_what_is_encoded_any_decoder_reads(fields: list[tuple[str, str]]) -> None:
    decoder = hpack.Decoder()
    block = encode_fields((name.encode(), value.encode()) for name, value in fields)
    got: Any = decoder.decode(block)
    assert [(name, value) for name, value in got] == fields
    assert not decoder.header_table.dynamic_entries


def test_the_fields_of_every_answer_are_a_few_bytes() -> None:
    assert decoded(HEAD) == {":status": "200", "content-type": "application/grpc"}
    assert decoded(OK) == {"grpc-status": "0"}
    assert len(HEAD + OK) < 40
