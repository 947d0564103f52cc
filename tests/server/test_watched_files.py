"""Which files of secrets others may read, as PostgreSQL has it."""

import os
from pathlib import Path

import pytest

from forwardpass.server.watched_files import exposure


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize(
    ("owner", "mode", "wanted"),
    [
        (1000, 0o600, ""),
        (1000, 0o400, ""),
        (1000, 0o711, ""),
        (1000, 0o640, "600"),
        (1000, 0o604, "600"),
        (1000, 0o602, "600"),
        # As secrets are mounted: root's, for the group of who runs the server.
        (0, 0o440, ""),
        (0, 0o640, ""),
        (0, 0o660, "640"),
        (0, 0o644, "640"),
        (0, 0o444, "440"),
    ],
)
def test_a_file_is_secret_or_the_log_says_how_to_make_it_so(
    tmp_path: Path, owner: int, mode: int, wanted: str
) -> None:
    file = tmp_path / "secret"
    file.touch()
    os.chown(file, owner, -1)
    file.chmod(mode)

    told = exposure(file)

    assert bool(told) == bool(wanted)
    assert not wanted or f"chmod {wanted} {file}" in told


def test_a_file_that_is_not_there_is_nobodys(tmp_path: Path) -> None:
    assert exposure(tmp_path / "nothing") == ""
