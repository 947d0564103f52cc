"""Environments of their own for packages that need other versions than ours.

Kept in `.cache/` under a name that changes with what is installed, since installing is slow.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
OBJECT_STORE = ("kserve-storage==0.21.0", "moto[s3]==5.2.5", "flask", "flask-cors")
"""KServe's storage initializer, and moto with its server: `moto[server]` brings all of AWS."""
_NODE = ("package.json", "package-lock.json")


def python_with(*packages: str) -> Path:
    """Make a virtual environment with the packages given; return its Python."""

    def install(home: Path) -> None:
        venv.create(home, with_pip=True, clear=True)
        pip: list[str | Path] = [home / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *packages], check=True, cwd=ROOT)

    return _made([sys.version, *packages], install) / "bin" / "python"


def lowest_versions(*extras: str) -> Iterator[str]:
    """Yield a pin of the lower bound of each package that the project requires here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"]]
    for extra in extras:
        required += project["optional-dependencies"][extra]
    for requirement in map(Requirement, required):
        if requirement.marker is None or requirement.marker.evaluate():
            (bound,) = (each.version for each in requirement.specifier if each.operator == ">=")
            yield f"{requirement.name}=={bound}"


def node_modules(source: Path) -> Path:
    """Install what a folder's package-lock.json says; return the folder of Node's modules."""

    def install(home: Path) -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for name in _NODE:
            shutil.copy(source / name, home)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(command, check=True, cwd=home)

    return _made([(source / name).read_text() for name in _NODE], install) / "node_modules"


def debian(package: str) -> Path:
    """Unpack a Debian package beside the system, without what it depends on; return its root.

    Its services are not started, and nothing has to be root.
    """

    def install(home: Path) -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        download = ["apt-get", "download", "--quiet", package]
        if subprocess.run(download, cwd=home).returncode:
            # A new machine has no lists of packages.
            subprocess.run(["apt-get", "update", "--quiet"], check=True)
            subprocess.run(download, check=True, cwd=home)
        (file,) = home.glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", file, home], check=True)
        file.unlink()

    return _made([package], install)


def _made(key: list[str], install: Callable[[Path], None]) -> Path:
    name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
    home = ROOT / ".cache" / "environments" / name
    complete = home / "complete"
    home.parent.mkdir(parents=True, exist_ok=True)
    # Two tests at a time may want the same.
    with open(home.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            install(home)
            complete.touch()
    return home
