"""Variables that Kubernetes sets under the names of our settings.

For each Service of a namespace it tells every pod there where that is: of one named `forwardpass`
in FORWARDPASS_PORT, as `tcp://HOST:PORT`.
"""

import re
from collections.abc import MutableMapping

import typer

_NAMES = ("FORWARDPASS_PORT", "FORWARDPASS_METRICS_PORT")
"""All that are a setting and can come from a Service's name: of `...` it makes `..._PORT`."""

_LINK = re.compile(r"(tcp|udp|sctp)://.*:\d+")


def leave_aside(environment: MutableMapping[str, str]) -> None:
    """Take the links out of an environment, with a warning for each.

    Not an error: nobody has set them, so what was meant is what holds without them, and a server
    that refused them would not start once somebody else has made a Service of that name.
    """
    for name in _NAMES:
        if _LINK.fullmatch(environment.get(name, "")):
            link = environment.pop(name)
            typer.echo(
                f"warning: {name}: expected a port, got {link!r}: the address of a Service, which "
                "Kubernetes sets, and no setting of ours; left aside. Set enableServiceLinks: "
                "false in the pod's spec, or the variable itself",
                err=True,
            )
