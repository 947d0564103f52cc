"""The limit of open files is raised as far as connections need; a warning says what is missing."""

import subprocess
import sys

import pytest
from support.prepared import Prepared

PROGRAM = """
import logging, resource, sys
from forwardpass.server.process.descriptors import allow_connections

logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
allow_connections({connections})
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "after", "fits"),
    [
        (1024, 1024, 768, 1024, None),
        (256, 1024, 500, 756, None),
        (256, 1024, 10_000, 1024, 768),
        (64, 64, 1, 64, 0),
    ],
)
def test_the_limit_follows_the_connections(
    soft: int, hard: int, connections: int, after: int, fits: int | None
) -> None:
    program = PROGRAM.format(soft=soft, hard=hard, connections=connections)
    with Prepared(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        out, err = process.communicate(timeout=20)

    assert out == f"{after} {hard}\n"
    warning = f"max_connections: expected at most {fits} with a limit of {after} open files"
    assert err.startswith(warning) if fits is not None else not err
