"""Sockets that several processes accept from, and how they share the connections."""

import socket
from pathlib import Path

import pytest

from forwardpass.server.config import Config
from forwardpass.server.transport.listening import Balance, ListenError, SharedListener, reserve


def test_who_has_fewest_connections_accepts_next() -> None:
    balance = Balance(3)
    first, second, third = (SharedListener([], [], balance, number) for number in range(3))
    # Those that do not accept yet are not waited for.
    assert first.is_next(5)
    assert second.is_next(0)
    assert not first.is_next(5)
    assert third.is_next(0)
    assert second.is_next(0)
    assert not second.is_next(1)
    balance.leave(2)
    assert second.is_next(1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_reserved_port_is_kept_from_others_and_shared_with_those_that_ask(
    host: str, tmp_path: Path
) -> None:
    with reserve(Config(models=tmp_path, host=host, port=0)) as reserved:
        place = reserved.getsockname()
        with socket.socket(reserved.family, socket.SOCK_STREAM) as shares:
            shares.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            shares.bind(place)
            shares.listen()
            with pytest.raises(ListenError, match=f"cannot listen on .*:{place[1]}: "):
                reserve(Config(models=tmp_path, host=host, port=place[1]))
            # Nobody is sent to the one that only reserves.
            with socket.create_connection(place[:2]), shares.accept()[0]:
                pass


def test_a_host_that_this_machine_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:0: "):
        reserve(Config(models=tmp_path, host="192.0.2.1", port=0))
