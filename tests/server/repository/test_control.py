"""Loads and unloads that callers wait for."""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from threading import Event, Semaphore

import pytest

from forwardpass.server.errors import ModelNotFoundError, ShuttingDownError, TooManyLoadsError
from forwardpass.server.repository.control import Control

TIMEOUT_S = 20


@dataclass
class Changes:
    """Changes that last until they are let go on."""

    made: list[str] = field(default_factory=list)
    begun: Semaphore = field(default_factory=lambda: Semaphore(0))
    go_on: Semaphore = field(default_factory=lambda: Semaphore(0))

    def change(self, kind: str) -> Callable[[str], None]:
        def make(name: str) -> None:
            self.made.append(f"{kind} {name}")
            self.begun.release()
            assert self.go_on.acquire(timeout=TIMEOUT_S)
            if name == "missing":
                raise ModelNotFoundError(name, ())

        return make


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def control(changes: Changes) -> Iterator[Control]:
    control = Control(changes.change("load"), changes.change("unload"), most=4)
    yield control
    control.stop()
    changes.go_on.release(100)
    control.join()


def begun(changes: Changes) -> None:
    assert changes.begun.acquire(timeout=TIMEOUT_S)


def test_changes_are_made_in_order_and_those_alike_once(control: Control, changes: Changes) -> None:
    first = control.load("slow")
    begun(changes)
    waiting = [control.load("slow"), control.unload("other"), control.load("slow")]
    assert not first.done()

    changes.go_on.release(3)
    for each in (first, *waiting):
        each.result(TIMEOUT_S)

    # Not by what had begun before they were asked for.
    assert changes.made == ["load slow", "load slow", "unload other"]


def test_a_change_is_not_made_before_another_of_the_same_model(
    control: Control, changes: Changes
) -> None:
    asked = [control.load("m"), control.load("m"), control.unload("m"), control.load("m")]
    changes.go_on.release(4)
    for each in asked:
        each.result(TIMEOUT_S)

    # The second may have come in time for the first.
    assert changes.made[-3:] == ["load m", "unload m", "load m"]


def test_an_error_is_for_those_who_asked(control: Control, changes: Changes) -> None:
    changes.go_on.release(2)

    with pytest.raises(ModelNotFoundError):
        control.load("missing").result(TIMEOUT_S)
    control.load("m").result(TIMEOUT_S)


@pytest.mark.parametrize("gone", [0, 2], ids=["of what is being made", "of what waits"])
def test_one_who_goes_away_frees_a_place(control: Control, changes: Changes, gone: int) -> None:
    asked = [control.load("0")]
    begun(changes)
    asked += [control.load(str(number)) for number in (1, 2, 3)]
    with pytest.raises(TooManyLoadsError, match="4 callers wait"):
        control.load("4")

    assert asked[gone].cancel()

    asked.append(control.load("4"))
    changes.go_on.release(5)
    for number, each in enumerate(asked):
        if number == gone:
            with pytest.raises(CancelledError):
                each.result(TIMEOUT_S)
        else:
            each.result(TIMEOUT_S)
    assert [made for made in changes.made if made == f"load {gone}"] == ["load 0"] * (gone == 0)


def test_places_of_those_who_went_away_take_no_memory(control: Control, changes: Changes) -> None:
    control.load("slow")
    begun(changes)
    for _ in range(1000):
        assert control.load("m").cancel()
    assert len(control._waiting) == 0


def test_its_end_ends_who_waits_and_not_what_is_being_made(
    control: Control, changes: Changes
) -> None:
    made = control.load("slow")
    begun(changes)
    waits = control.load("m")

    control.stop()

    with pytest.raises(ShuttingDownError):
        waits.result(TIMEOUT_S)
    with pytest.raises(ShuttingDownError):
        control.load("m")
    changes.go_on.release()
    made.result(TIMEOUT_S)


def test_who_got_a_notice_may_ask_again_at_once(control: Control, changes: Changes) -> None:
    told = Event()
    again: list[Future[None]] = []

    def ask(_: object) -> None:
        again.append(control.load("next"))
        told.set()

    control.load("first").add_done_callback(ask)
    changes.go_on.release(2)

    assert told.wait(TIMEOUT_S)
    again[0].result(TIMEOUT_S)
