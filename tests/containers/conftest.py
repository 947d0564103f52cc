"""A machine with a Docker engine for all tests, or a loud word that there is none."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers.machine import Machine, NoEngineError, machine
from containers.stack import Stack, stack, until_answered

from forwardpass.client import Client

_WHY_NOT = pytest.StashKey[str]()
_FIGURES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.timeout(900))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for figure in config.stash.get(_FIGURES, []):
        terminalreporter.write_line(figure)
    if _WHY_NOT in config.stash:
        terminalreporter.section("NO CONTAINER WAS TESTED", red=True, bold=True)
        terminalreporter.write_line(config.stash[_WHY_NOT])


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> list[str]:
    """Lines to print at the end."""
    return request.config.stash.setdefault(_FIGURES, [])


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest, figures: list[str]) -> Iterator[Machine]:
    """The machine, with the image built."""
    try:
        with machine() as made:
            figures.append(made.run("deploy/build.sh").strip())
            yield made
    except NoEngineError as error:
        request.config.stash[_WHY_NOT] = str(error)
        if os.environ.get("FORWARDPASS_CI") == "1":
            pytest.fail(f"CI has to test containers: {error}")
        pytest.skip(f"no Docker engine: {error}")


@pytest.fixture(scope="module")
def up(host: Machine) -> Iterator[Stack]:
    """The stack with three servers, answering through Envoy."""
    with stack(host, "forwardpass-test") as made:
        with Client(f"localhost:{made.port}") as client:
            until_answered(client)
        yield made
