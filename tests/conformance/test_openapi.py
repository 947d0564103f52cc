"""The description at /openapi.json: schemathesis asks what it says and judges the answers by it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import onnx_files
from support.rest import Rest

from forwardpass.models import publish
from forwardpass.models.zoo import ZOO
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
"""Not whether all that the schema allows is taken: shapes and their elements it cannot compare."""


@pytest.mark.timeout(600)
def test_every_answer_is_as_the_description_says(
    environment: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("breast_cancer", "linnerud"):
        publish(ZOO[name].network(), tmp_path / "models")
    models = {"pair": onnx_files.pair(), "texts": onnx_files.identity("BYTES", ["n", 2])}
    for name, model in models.items():
        onnx_files.save(model, tmp_path / "models" / name / "1" / "model.onnx")
    python = environment("schemathesis==4.32.5")
    config = Config(models=tmp_path / "models", port=0, http_port=0, transport=Transport.ASYNCIO)
    with Server(config) as server:
        done = subprocess.run(
            [
                python.parent / "schemathesis",
                "run",
                f"http://127.0.0.1:{server.http_port}/openapi.json",
                *("--checks", ",".join(CHECKS)),
                *("--max-examples", "30", "--seed", "7", "--phases", "coverage,fuzzing"),
                *("--no-color", "--suppress-health-check", "all", "--warnings", "off"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONUTF8": "1"},
        )
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
        with Rest(server.http_port) as client:
            assert client.get("/v2/health/ready").status == 200
