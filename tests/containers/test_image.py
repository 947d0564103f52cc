"""The image: what is in it, what is not, and how it starts, tells its health and ends."""

import json
import time
from collections.abc import Iterator

import pytest
from containers.machine import Machine, until

HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true")
MAX_BYTES = 235_000_000

PUBLISH = """
from forwardpass.models import publish
from forwardpass.models.zoo import ZOO
publish(ZOO["linnerud"].network(), "/models")
"""
FILES = """
import json, os, stat
found = []
for folder, folders, names in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys")]
    for name in names:
        path = os.path.join(folder, name)
        found.append((path, os.lstat(path).st_mode))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def volume(host: Machine) -> Iterator[str]:
    name = host.docker("volume", "create")
    host.python(PUBLISH, "-v", f"{name}:/models", *HARDENED)
    yield name
    host.docker("volume", "rm", name)


@pytest.fixture
def container(host: Machine, volume: str) -> Iterator[str]:
    """The image as it starts by itself, with as few rights as there are."""
    image = host.settings["FORWARDPASS_IMAGE"]
    name = host.docker("run", "-d", *HARDENED, "-v", f"{volume}:/models:ro", image)
    yield name
    host.docker("rm", "-f", name)


@pytest.fixture(scope="module")
def files(host: Machine) -> dict[str, int]:
    """The mode of every file, by path."""
    return dict(json.loads(host.python(FILES, "--user", "0")))


def inspect(host: Machine, name: str, template: str) -> str:
    return host.docker("inspect", "-f", template, name)


def test_it_is_below_235_mb(host: Machine) -> None:
    assert int(inspect(host, host.settings["FORWARDPASS_IMAGE"], "{{.Size}}")) < MAX_BYTES


def test_python_is_the_only_program(files: dict[str, int]) -> None:
    programs = {path.rpartition("/")[2] for path in files if "/bin/" in path or "/sbin/" in path}
    assert {"python", "forwardpass"} <= programs
    assert not programs & {
        "sh",
        "bash",
        "pip",
        "pip3",
        "gcc",
        "cc",
        "apt",
        "apt-get",
        "dpkg",
        "perl",
    }


def test_pip_compilers_caches_and_secrets_of_the_build_are_not_in_it(files: dict[str, int]) -> None:
    for part in ("/pip/", "/ensurepip/", "/setuptools/", "/.cache/", "/apt/", "/include/python"):
        assert not [path for path in files if part in path], part
    assert not [path for path in files if path.startswith("/run/secrets")]


def test_no_file_runs_as_somebody_else(files: dict[str, int]) -> None:
    assert not [path for path, mode in files.items() if mode & 0o6000]


def test_every_module_is_compiled_since_none_can_be_later(files: dict[str, int]) -> None:
    sources = [path for path in files if path.endswith(".py") and "/site-packages/" in path]
    assert len(sources) > 500
    for path in sources:
        folder, _, name = path.rpartition("/")
        assert f"{folder}/__pycache__/{name[:-3]}.cpython-311.pyc" in files


def test_it_carries_its_license(files: dict[str, int]) -> None:
    assert [
        path
        for path in files
        if path.endswith(".dist-info/licenses/LICENSE") and "/forwardpass-" in path
    ]


def test_it_runs_as_nobody_in_particular_and_sends_no_telemetry(host: Machine) -> None:
    image = host.settings["FORWARDPASS_IMAGE"]
    assert inspect(host, image, "{{.Config.User}}") == "10001:10001"
    assert "ORT_DISABLE_TELEMETRY=1" in inspect(host, image, "{{.Config.Env}}")


def test_labels_report_what_it_is_and_where_it_comes_from(host: Machine) -> None:
    from forwardpass.proto.version import __version__

    labels = json.loads(
        inspect(host, host.settings["FORWARDPASS_IMAGE"], "{{json .Config.Labels}}")
    )
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == "forwardpass"
    assert labels[f"{prefix}licenses"] == "Apache-2.0"
    assert labels[f"{prefix}version"] == __version__
    assert labels[f"{prefix}revision"] == host.run("git", "rev-parse", "HEAD").strip()
    assert labels[f"{prefix}created"] == host.run("git", "log", "-1", "--format=%cI").strip()
    assert labels[f"{prefix}authors"] == "The Forwardpass authors"
    assert labels[f"{prefix}base.name"] == host.settings["BASE_IMAGE"]


def test_neither_history_nor_environment_holds_an_address(host: Machine) -> None:
    image = host.settings["FORWARDPASS_IMAGE"]
    history = host.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "://" not in history + inspect(host, image, "{{json .Config}}")


def test_what_is_installed_is_what_the_lock_file_says(host: Machine) -> None:
    from containers.machine import ROOT

    listing = "from importlib.metadata import distributions\n"
    listing += "print(*(f'{d.name}=={d.version}' for d in distributions()), sep='\\n')"
    installed = {line.lower().replace("_", "-") for line in host.python(listing).splitlines()} - {
        "forwardpass==0.1.0"
    }
    lock = (ROOT / "deploy" / "image" / "requirements.lock").read_text()
    assert installed == {line.split()[0] for line in lock.splitlines() if "==" in line}


def test_its_bill_of_materials_names_packages_interpreter_and_libraries(host: Machine) -> None:
    from containers.machine import ROOT

    sbom = json.loads(host.python('print(open("/sbom.cdx.json").read())'))
    parts = {each["purl"].partition("?")[0] for each in sbom["components"]}
    lock = (ROOT / "deploy" / "image" / "requirements.lock").read_text()
    locked = {line.split()[0] for line in lock.splitlines() if "==" in line}
    pypi = {each.removeprefix("pkg:pypi/") for each in parts if each.startswith("pkg:pypi/")}
    assert pypi == {each.replace("==", "@") for each in locked}
    assert [each for each in parts if each.startswith("pkg:generic/python@3.11.")]
    assert {each.partition("@")[0] for each in parts} >= {"pkg:deb/debian/libc6"}


def test_it_becomes_healthy_and_answers(host: Machine, container: str) -> None:
    def health() -> str:
        return inspect(host, container, "{{.State.Health.Status}}")

    until(lambda: health() == "healthy", within_s=60, told=lambda: host.docker("logs", container))
    assert host.docker("exec", container, "forwardpass", "health", "--model", "linnerud") == ""
    # Process 1 is the server itself: no shell stands between it and the signals.
    (first,) = inspect(host, container, "{{json .Path}}").splitlines()
    assert json.loads(first) == "forwardpass"


def test_without_models_it_waits_and_is_not_healthy(host: Machine) -> None:
    image = host.settings["FORWARDPASS_IMAGE"]
    name = host.docker("run", "-d", *HARDENED, image)
    try:
        until(
            lambda: "not ready until one does" in host.run("sh", "-c", f"docker logs {name} 2>&1"),
            within_s=60,
            told="it does not say what it waits for",
        )
        with pytest.raises(AssertionError, match="ended with 1"):
            host.docker("exec", name, "forwardpass", "health")
        assert inspect(host, name, "{{.State.Status}}") == "running"
        assert inspect(host, name, "{{.State.Health.Status}}") != "healthy"
    finally:
        host.docker("rm", "-f", name)


def test_sigterm_drains_and_ends_with_0(host: Machine, container: str) -> None:
    until(lambda: "ready on" in host.docker("logs", container), within_s=60)
    started = time.monotonic()
    host.docker("stop", "--time", "60", container)
    assert inspect(host, container, "{{.State.ExitCode}}") == "0"
    # --drain-s is 5: it neither ended at once nor waited to be killed.
    assert 4 < time.monotonic() - started < 40
