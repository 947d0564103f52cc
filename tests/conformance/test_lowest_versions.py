"""Server, client and command line on the lowest versions that pyproject.toml allows."""

import subprocess
from pathlib import Path

from conformance.environments import ROOT

TESTS = (
    "proto",
    "client",
    "server/access",
    "server/observe",
    "server/process",
    "server/test_app.py",
    "server/test_config.py",
    "server/test_package.py",
    "server/transport/event_loop",
    "server/transport/test_certificates.py",
    "server/transport/test_tls.py",
)
"""What meets other packages. Of the rest, some tests hold the newest packages to their words."""
NEED_MORE = (
    # pandas, polars, pyarrow and scikit-learn.
    "client/conversation/test_versions.py",
    "client/messages/test_features.py",
    "client/messages/test_indexes.py",
    "client/messages/test_inputs.py",
    "client/messages/test_missing.py",
    "client/messages/test_tables.py",
    "client/test_prediction.py",
    "client/test_verdicts.py",
    # onnxruntime's words for a file that is cut off; 1.25 has others, which are passed on.
    "client/test_local.py::test_a_file_that_is_cut_off_is_reported_wherever_that_is",
    # hatchling, which builds the wheel.
    "proto/test_layout.py::test_the_wheel_holds_the_files_of_the_page",
    # protoc.
    "proto/test_inference_pb2.py::test_the_committed_files_are_what_protoc_makes",
    # OpenTelemetry.
    "client/test_extras.py",
    "server/observe/test_tracing.py",
)
"""Tests that import what neither the server nor the client requires."""


def _without(test: str) -> str:
    """Return pytest's option that leaves out a test, or a file without importing it."""
    return f"--deselect=tests/{test}" if "::" in test else f"--ignore={ROOT / 'tests' / test}"


def test_server_client_and_command_line_work_on_the_lowest_versions(lowest: Path) -> None:
    done = subprocess.run(
        [
            *(lowest, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"),
            *(_without(name) for name in NEED_MORE),
            *(ROOT / "tests" / name for name in TESTS),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
