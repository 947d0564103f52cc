"""The example of tritonclient in the documentation, run with tritonclient."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from conformance.environments import ROOT
from docs.blocks import assert_printed, blocks
from support.command import serving

from forwardpass.models import publish
from forwardpass.models.zoo import ZOO


def test_the_example_prints_what_it_says(environment: Callable[..., Path], tmp_path: Path) -> None:
    python = environment("tritonclient[grpc]", "-e", str(ROOT))
    (block,) = (
        block
        for block in blocks((ROOT / "docs" / "protocol.md").read_text())
        if block.needs == "tritonclient"
    )
    publish(ZOO["linnerud"].network(), tmp_path)
    with serving(tmp_path, "--port", "0") as server:
        program = block.text.replace("127.0.0.1:8001", server.target)
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert_printed(done.stdout, block.prints)
