"""What one caller may use, whatever the clock does."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from forwardpass.server.access import quota as quotas
from forwardpass.server.access.quota import Quota
from forwardpass.server.errors import CallRateError, CallShareError


class Clock:
    """Stands for time.monotonic."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(quotas, "monotonic", clock)
    return clock


def entered(quota: Quota, calls: int) -> int:
    """Try to begin so many calls at once; return how many began, and end them."""
    begun = 0
    for _ in range(calls):
        try:
            quota.enter()
        except CallRateError:
            continue
        begun += 1
    for _ in range(begun):
        quota.leave()
    return begun


def test_a_bucket_holds_the_calls_of_a_second(clock: Clock) -> None:
    quota = Quota("web", 10, None)
    assert entered(quota, 100) == 10
    clock.now += 0.25
    assert entered(quota, 100) == 2
    clock.now += 3600
    assert entered(quota, 100) == 10


def test_less_than_a_call_a_second_is_a_call_at_a_time(clock: Clock) -> None:
    quota = Quota("web", 0.5, None)
    assert entered(quota, 5) == 1
    clock.now += 1.9
    with pytest.raises(CallRateError) as raised:
        quota.enter()
    assert raised.value.retry_s == pytest.approx(0.1)
    clock.now += 0.1 + 1e-9
    assert entered(quota, 5) == 1


def test_no_more_calls_are_in_flight_whoever_asks() -> None:
    quota = Quota("web", None, 3)
    most, refused = 0, 0
    lock = threading.Lock()

    def call(_: int) -> None:
        nonlocal most, refused
        try:
            quota.enter()
        except CallShareError:
            with lock:
                refused += 1
            return
        with lock:
            most = max(most, quota.in_flight)
        quota.leave()

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(call, range(5000)))
    assert most <= 3
    assert quota.in_flight == 0
    for _ in range(3):
        quota.enter()
    with pytest.raises(CallShareError):
        quota.enter()
    quota.leave()
    quota.enter()


def test_a_call_that_the_share_refuses_is_not_taken_from_the_rate(clock: Clock) -> None:
    quota = Quota("web", 2, 1)
    quota.enter()
    for _ in range(10):
        with pytest.raises(CallShareError):
            quota.enter()
    quota.leave()
    quota.enter()
    assert clock.now == 1000.0
