"""Quotas that several processes share: one account, whoever ends in between."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from forwardpass.server.access.ledger import Ledger
from forwardpass.server.errors import CallRateError, CallShareError


def in_child(number: int, ledger: Ledger, what: Callable[[], object]) -> int:
    """Run something in a forked process of that number; return its exit code."""
    pid = os.fork()
    if not pid:
        try:
            ledger.number = number
            what()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_calls_in_flight_are_counted_over_processes() -> None:
    ledger = Ledger(2)
    quota = ledger.quota("a", "web", None, 3)
    quota.enter()

    def enter_twice() -> None:
        # As a worker does that reads the file itself.
        other = ledger.quota("a", "web", None, 3)
        other.enter()
        other.enter()
        with pytest.raises(CallShareError):
            other.enter()

    assert in_child(1, ledger, enter_twice) == 0
    with pytest.raises(CallShareError):
        quota.enter()
    assert quota.in_flight == 3
    # It has ended without leaving.
    ledger.clear(1)
    assert quota.in_flight == 1
    quota.enter()
    quota.leave()
    quota.leave()
    assert quota.in_flight == 0


def test_calls_a_second_are_one_bucket() -> None:
    ledger = Ledger(2)
    quota = ledger.quota("a", "web", 0.001, None)
    assert in_child(1, ledger, quota.enter) == 0
    with pytest.raises(CallRateError):
        quota.enter()
    # Another limit, or another token, is another account.
    ledger.quota("a", "web", 0.002, None).enter()
    ledger.quota("b", "web", 0.001, None).enter()


def test_a_process_that_is_killed_inside_leaves_nothing_locked() -> None:
    ledger = Ledger(2)
    quota = ledger.quota("a", "web", 1000.0, 5)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        with ledger.locked(quota._entry):  # type: ignore[attr-defined]
            os.write(write, b".")
            time.sleep(60)
        os._exit(1)
    os.read(read, 1)
    os.kill(pid, signal.SIGKILL)
    quota.enter()
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


def test_without_room_each_process_has_the_limits_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("forwardpass.server.access.ledger._ENTRIES", 2)
    ledger = Ledger(1)
    for key in ("a", "b", "c"):
        ledger.quota(key, key, None, 1).enter()
    with pytest.raises(CallShareError):
        ledger.quota("b", "b", None, 1).enter()
    ledger.quota("c", "c", None, 1).enter()
