"""A thread that uses a whole core is named once, as what limits the server."""

import logging
from pathlib import Path

import pytest
from support.versions import put
from support.waiting import eventually

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.process import saturation


class Clock:
    """Time, and the CPU time of a thread, which the test decides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
        self.now = self.cpu_s = 100.0
        monkeypatch.setattr(saturation, "available_cpus", lambda: cpus)
        monkeypatch.setattr(saturation, "time", self)

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.cpu_s

    def pass_by(self, look: saturation.Saturation, seconds: int, share: float) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.cpu_s += share
            look.look()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "bottleneck" in r.getMessage()]


def test_it_is_said_once_after_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        clock, looks = Clock(patch, cpus=4), saturation.Saturation()
        clock.pass_by(looks, 29, 1.0)
        assert said(caplog) == []
        clock.pass_by(looks, 1, 0.5)
        clock.pass_by(looks, 29, 0.95)
        assert said(caplog) == []
        clock.pass_by(looks, 100, 0.95)
    (line,) = said(caplog)
    assert "there are 4 CPUs" in line
    assert "--processes auto" in line


def test_nothing_is_said_where_nothing_helps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        clock, looks = Clock(patch, cpus=1), saturation.Saturation()
        clock.pass_by(looks, 100, 1.0)
    assert said(caplog) == []


def test_the_event_loop_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "m", 1, 1)
    monkeypatch.setattr(saturation, "available_cpus", lambda: 2)
    monkeypatch.setattr(saturation, "SHARE", 0.0)
    monkeypatch.setattr(saturation, "LONG_S", 0.1)
    caplog.set_level(logging.WARNING)
    with Server(Config(models=tmp_path, port=0, transport=Transport.ASYNCIO)):
        eventually(lambda: said(caplog))
