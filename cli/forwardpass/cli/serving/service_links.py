"""Variables that Kubernetes sets and that have names of our settings.

It sets the address of each Service of a namespace in every pod there: that of one named
`forwardpass` in FORWARDPASS_PORT, as `tcp://HOST:PORT`.
"""

import re
from collections.abc import MutableMapping

import typer

_NAMES = ("FORWARDPASS_PORT", "FORWARDPASS_METRICS_PORT")
"""The settings whose variables can come from a Service's name: `...` becomes `..._PORT`."""

_LINK = re.compile(r"(tcp|udp|sctp)://.*:\d+")


def leave_aside(environment: MutableMapping[str, str]) -> None:
    """Remove the links from an environment, with a warning for each.

    They are no error: nobody has set them, so the settings without them are right, and a server
    that rejected them would not start once somebody else has made a Service of that name.
    """
    for name in _NAMES:
        if _LINK.fullmatch(environment.get(name, "")):
            link = environment.pop(name)
            typer.echo(
                f"warning: {name}: expected a port, got {link!r}: the address of a Service, which "
                "Kubernetes sets, and not a setting of ours; ignored. Set enableServiceLinks: "
                "false in the pod's spec, or the variable itself",
                err=True,
            )
