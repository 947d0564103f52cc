"""Python and the packages, compared with the lower bounds that we declare."""

import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from forwardpass.cli.doctor.finding import Finding, fine, note, wrong
from forwardpass.proto.version import __version__

_EXTRAS = ("", "server", "cli", "data", "import", "tracing")
"""The extras that users install, the base first; the others are for developers of Forwardpass."""


def check_installation() -> Iterator[Finding]:
    """Yield a finding for Python, each package that is out of bounds, and each extra."""
    python = ".".join(map(str, sys.version_info[:3]))
    # An older Python fails before this.
    yield fine("Python", python)
    try:
        declared = [Requirement(text) for text in requires("forwardpass") or ()]
    except PackageNotFoundError:
        yield note(
            "forwardpass",
            f"{__version__}, run from its sources: versions of packages are not checked",
            "pip install -e .",
        )
        return
    installed = version("forwardpass")
    if installed != __version__:
        yield note(
            "forwardpass",
            f"{__version__}, installed as {installed}",
            "install it again, so that its requirements are those of this version",
        )
    else:
        yield fine("forwardpass", __version__)
    for extra, needed in _by_extra(declared).items():
        yield from _check(extra, needed)


def _by_extra(declared: list[Requirement]) -> dict[str, list[Requirement]]:
    """Return the requirements of each extra here; none for extras made of extras."""
    found: dict[str, list[Requirement]] = defaultdict(list)
    for extra in _EXTRAS:
        for requirement in declared:
            own = extra == "" or not _applies(requirement, "")
            if own and _applies(requirement, extra) and requirement.name != "forwardpass":
                found[extra].append(requirement)
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _check(extra: str, needed: list[Requirement]) -> Iterator[Finding]:
    """Yield the packages out of bounds, then the versions, or the packages that are missing."""
    missing, present = [], []
    for requirement in needed:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            present.append(f"{requirement.name} {installed}")
        else:
            yield wrong(
                f"package {requirement.name}",
                f"{installed}, expected {requirement.specifier}",
                f"pip install '{requirement.name}{requirement.specifier}'",
            )
    name = f"extra {extra!r}" if extra else "packages"
    if not missing:
        yield fine(name, ", ".join(present))
    elif extra:
        fix = f"pip install 'forwardpass[{extra}]', if you want it"
        yield note(name, f"not installed: {', '.join(missing)}", fix)
    else:
        yield wrong(name, f"not installed: {', '.join(missing)}", "pip install forwardpass")
