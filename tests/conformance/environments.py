"""Environments of their own for packages that need other versions than ours.

Kept in `.cache/` under a name that changes with what is installed, since installing is slow.
"""

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NODE = ("package.json", "package-lock.json")


def python_with(*packages: str) -> Path:
    """Make a virtual environment with the packages given; return its Python."""

    def install(home: Path) -> None:
        venv.create(home, with_pip=True, clear=True)
        pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *packages], check=True, cwd=ROOT)

    return _made([sys.version, *packages], install) / "bin" / "python"


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


def _made(key: list[str], install: Callable[[Path], None]) -> Path:
    name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
    home = ROOT / ".cache" / "environments" / name
    complete = home / "complete"
    if not complete.exists():
        install(home)
        complete.touch()
    return home
