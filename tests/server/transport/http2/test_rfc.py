"""Every rule of RFC 9113 and RFC 7541 that a client can keep or break, section by section."""

import re
from collections import Counter

import pytest
from support.peers import compression, control, definitions, messages, starting, streams
from support.peers.case import Case
from support.rpc import Stub
from support.served import GOOD, assert_answered

RFC_9113 = [*starting.CASES, *streams.CASES, *definitions.CASES, *control.CASES, *messages.CASES]
RFC_7541 = compression.CASES


@pytest.mark.parametrize("case", RFC_9113, ids=str)
def test_rfc_9113(case: Case, port: int, bystander: Stub) -> None:
    case.play(port)

    assert_answered(bystander, GOOD["linear"])


@pytest.mark.parametrize("case", RFC_7541, ids=str)
def test_rfc_7541(case: Case, port: int, bystander: Stub) -> None:
    case.play(port)

    assert_answered(bystander, GOOD["linear"])


def test_there_are_200_cases_of_every_chapter_and_no_two_have_one_name() -> None:
    names = Counter(str(case) for case in RFC_9113 + RFC_7541)
    assert names.total() >= 200
    assert max(names.values()) == 1
    assert all(re.match(r"(\d|C)(\.\d+){0,2} \S", name) for name in names)
    for cases, chapters in ((RFC_9113, "3456789"), (RFC_7541, "2456C")):
        assert {case.section[0] for case in cases} == set(chapters)
