"""The command as a whole: help, version, exit codes, what it imports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import COMMAND, run, run_here

COMMANDS = (
    "export",
    "pull",
    "inspect",
    "draw",
    "serve",
    "ui",
    "token",
    "predict",
    "health",
    "status",
    "doctor",
    "demo",
)
SCRIPT = Path(sys.executable).parent / "forwardpass"


def test_help_reports_what_every_command_does() -> None:
    done = run("--help", columns=80)
    assert (done.code, done.stderr) == (0, "")
    for command in COMMANDS:
        (line,) = re.findall(rf"^  {command} +(\w.*)$", done.stdout, re.MULTILINE)
        assert line.endswith("."), "cut off"
        assert not line.endswith("...")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_explains_its_options_within_80_columns(command: str) -> None:
    done = run_here(command, "--help", columns=80)
    assert done.code == 0
    assert "--help" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "…" not in done.stdout


@pytest.mark.parametrize("program", [COMMAND, (str(SCRIPT),)], ids=["python -m", "script"])
def test_version_is_the_packages(program: tuple[str, ...]) -> None:
    from forwardpass.proto.version import __version__

    done = run("--version", program=program)
    assert (done.code, done.stdout, done.stderr) == (0, f"forwardpass {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("--fly",),
        ("export",),
        ("export", "linnerud"),
        ("inspect",),
        ("pull",),
        ("serve", ".", "--port", "70000"),
        ("serve", ".", "--port", "http"),
        ("predict", "m"),
        ("predict", "m", "--input", "x.npy", "--timeout-s", "0"),
        ("health", "127.0.0.1:8001", "--timeout-s", "0"),
        ("status", "127.0.0.1:8001", "--every-s", "0"),
        ("doctor", "--port", "65536"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_names_the_fault(arguments: tuple[str, ...]) -> None:
    done = run_here(*arguments)
    assert done.code == 2
    assert done.stdout == ""
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_command_help_is_shown() -> None:
    done = run()
    assert done.code == 2
    assert all(command in done.stdout + done.stderr for command in COMMANDS)


def test_what_is_not_installed_is_named_with_the_fix() -> None:
    for missing in ("typer", "rich", "onnxruntime"):
        program = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['forwardpass', 'demo']"
        done = subprocess.run(
            [sys.executable, "-c", f"{program}; from forwardpass.cli.__main__ import main; main()"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert done.stderr == (
            f"error: the command needs {missing}, which is not installed; "
            "run: pip install 'forwardpass[all]'\n"
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_are_known_without_numpy_grpc_or_onnx(command: str) -> None:
    program = (
        "import sys, typer; from forwardpass.cli.app import app; "
        f"command = typer.main.get_command(app).commands[{command!r}]; "
        "command.get_params(typer.Context(command)); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    modules = set(done.stdout.split())
    assert "forwardpass.cli.app" in modules
    assert not {"numpy", "grpc", "onnx", "onnxruntime"} & modules
    # The settings of a server cost every other command a start.
    assert ("forwardpass.server" in modules) == (command == "serve")
