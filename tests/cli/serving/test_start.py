"""What `forwardpass serve` imports before its first model answers: a start waits for nothing else.

Python itself tells: with PYTHONPROFILEIMPORTTIME it writes each import to stderr.
"""

from pathlib import Path

import pytest
from support.command import serving
from support.waiting import eventually

NEVER = {
    "forwardpass.client",
    "forwardpass.models",
    "multiprocessing",
    "onnx",
    "opentelemetry",
    "packaging",
    "prometheus_client",
    "pyarrow",
    "rich",
    "typer",
    "watchfiles",
}
NOT_WITH = {
    # grpcio imports asyncio itself.
    "grpcio": {"hpack", "uvloop", "forwardpass.server.transport.event_loop"},
    "asyncio": {"grpc", "forwardpass.server.transport.grpcio.server"},
}


def imported(log: str) -> set[str]:
    """The modules of a log as -X importtime writes it."""
    lines = log.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.mark.parametrize("transport", NOT_WITH)
def test_a_model_answers_before_anything_is_imported_that_it_does_not_need(
    repository: Path, tmp_path: Path, transport: str
) -> None:
    log = tmp_path / "log"
    model = repository / "breast_cancer" / "1" / "model.onnx"
    env = {"PYTHONPROFILEIMPORTTIME": "1"}
    with serving(model, "--port", "0", "--transport", transport, env=env, log=log):
        eventually(lambda: "version 1 is ready" in log.read_text())
        before, _, _ = log.read_text().partition("version 1 is ready")
    modules = imported(before)
    assert {"numpy", "onnxruntime", "forwardpass.server.engine.model"} <= modules
    assert modules & (NEVER | NOT_WITH[transport]) == set()
