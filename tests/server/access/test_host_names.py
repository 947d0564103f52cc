"""Names by which requests may call the server."""

import pytest

from forwardpass.server.access.host_names import HostNames, is_loopback


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", set()),
        (" , ", set()),
        ("Ward-7.Example.", {"ward-7.example"}),
        ("forwardpass, my_server,forwardpass", {"forwardpass", "my_server"}),
        ("xn--bcher-kva.example", {"xn--bcher-kva.example"}),
    ],
)
def test_names_are_read_without_case_and_read_again_as_they_are_written(
    text: str, names: set[str]
) -> None:
    assert set(HostNames.parse(text)) == names
    assert set(HostNames.parse(str(HostNames.parse(text)))) == names


@pytest.mark.parametrize(
    "name",
    [
        "*",
        "*.example",
        "http://ward.example",
        "ward.example:8000",
        "a b",
        "-a",
        "a..b",
        "büro",
        "a" * 254,
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    for make in (HostNames.parse, lambda name: HostNames([name])):
        with pytest.raises(ValueError, match="http_host_names: expected names as in"):
            make(name)


def test_a_single_name_is_no_list_of_letters() -> None:
    assert set(HostNames("ward")) == {"ward"}


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("ward.example", True),
        ("WARD.example.:8000", True),
        ("ward.example:", True),
        ("localhost", True),
        ("a.b.localhost:1", True),
        ("10.1.2.3", True),
        ("[fe80::1%25eth0]:80", True),
        ("ward", False),
        ("a.ward.example", False),
        ("ward.example.evil", False),
        ("xlocalhost", False),
        ("user@ward.example", False),
        ("ward.example:80:80", False),
        ("ward.example:http", False),
        ("::1", False),
        ("[127.0.0.1]", False),
        ("[::1", False),
        ("[::1].evil", False),
        ("127.0.0.1.evil", False),
        ("", False),
        ("[]", False),
    ],
)
def test_addresses_and_names_of_this_server_are_allowed(host: str, allowed: bool) -> None:
    assert HostNames(["ward.example"]).allow(host) is allowed


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False), ("a", False)],
)
def test_loopback_is_what_this_machine_alone_reaches(address: str, local: bool) -> None:
    assert is_loopback(address) is local
