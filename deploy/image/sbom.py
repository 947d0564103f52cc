"""Write what an image is made of, as CycloneDX 1.6 in JSON.

Usage: sbom.py ENVIRONMENT ROOT > FILE

ENVIRONMENT is the virtual environment, ROOT the root file system that root.sh made. cyclonedx-bom
sees the packages of Python alone, not the interpreter and the libraries that come from the base,
where most of what scanners look for is; and it would bring thirty packages into the build. A
conformance test compares with it. No time and no serial number: the same image has the same file.
"""

import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

_DPKG = Path("/var/lib/dpkg")
_US = "forwardpass"


def main(environment: Path, root: Path) -> None:
    """Print the document."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    found = {_name(each): each for each in distributions(path=[str(packages)])}
    ours = _python_package(found.pop(_US)) | {"type": "application"}
    parts = [_interpreter(), *map(_python_package, found.values()), *_debian_packages(root)]
    parts.sort(key=lambda part: str(part["bom-ref"]))
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": ours},
        "components": parts,
        "dependencies": [
            {"ref": ours["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }
    json.dump(document, sys.stdout, indent=1)


def _name(package: Distribution) -> str:
    # As PEP 503 normalizes it.
    return re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()


def _python_package(package: Distribution) -> dict[str, Any]:
    made = _component("library", _name(package), package.version, "pypi")
    metadata = package.metadata
    classifiers = [each for each in metadata.get_all("Classifier") or () if "License ::" in each]
    if metadata["License-Expression"]:
        made["licenses"] = [{"expression": metadata["License-Expression"]}]
    # Some packages have a whole license in this field.
    elif metadata["License"] and "\n" not in metadata["License"]:
        made["licenses"] = [{"license": {"name": metadata["License"]}}]
    elif classifiers:
        name = classifiers[0].rpartition(":: ")[2]
        made["licenses"] = [{"license": {"name": name}}]
    return made


def _interpreter() -> dict[str, Any]:
    version = platform.python_version()
    made = _component("application", "python", version, "generic")
    return made | {"cpe": f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*"}


def _debian_packages(root: Path) -> Iterator[dict[str, Any]]:
    """Yield those that files of the root are from; none where the base has no dpkg."""
    owners = {
        path: file.name.removesuffix(".list").partition(":")[0]
        for file in (_DPKG / "info").glob("*.list")
        for path in file.read_text().splitlines()
    }
    taken = set()
    for folder, _, files in os.walk(root):
        for name in files:
            path = "/" + str((Path(folder) / name).relative_to(root))
            # Packages may have their files where /lib was before it became a link.
            taken.add(owners.get(path) or owners.get(path.removeprefix("/usr")))
    if not owners:
        return
    system = platform.freedesktop_os_release()
    for package in _installed():
        if package["Package"] in taken:
            made = _component(
                "library", package["Package"], package["Version"], f"deb/{system['ID']}"
            )
            distribution = f"{system['ID']}-{system.get('VERSION_ID', 'sid')}"
            made["purl"] += f"?arch={package['Architecture']}&distro={distribution}"
            yield made | {"bom-ref": made["purl"]}


def _installed() -> Iterator[dict[str, str]]:
    for entry in (_DPKG / "status").read_text().strip().split("\n\n"):
        lines = [line for line in entry.splitlines() if not line.startswith(" ")]
        yield dict(line.split(": ", 1) for line in lines if ": " in line)


def _component(kind: str, name: str, version: str, packages: str) -> dict[str, Any]:
    purl = f"pkg:{packages}/{quote(name, safe='')}@{quote(version, safe='')}"
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
