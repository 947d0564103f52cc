"""The CPUs and the port that this machine, or the container, offers to a server."""

import errno
import os
import socket

from forwardpass.cli.doctor.finding import Finding, fine, note, wrong
from forwardpass.server.process.cpus import available_cpus


def check_cpus() -> Finding:
    """Return the number of CPUs, and how many of them may be used."""
    there, allowed = os.cpu_count() or 1, available_cpus()
    if allowed < there:
        return note(
            "CPU quota",
            f"{allowed} of {there} CPUs: affinity or the cgroup's quota leaves no more",
            "raise the container's limit of CPUs if a server is to have more",
        )
    return fine("CPU quota", f"all {there} CPUs: no quota of a cgroup below that")


def check_port(host: str, port: int) -> Finding:
    """Return whether a server can listen there, by listening for a moment."""
    what = f"port {port}"
    try:
        ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as listening:
            # A server ignores connections that have just ended, too.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()
    except OSError as error:
        fixes = {
            errno.EADDRINUSE: "end what listens there, or serve on another --port",
            errno.EACCES: "serve on a --port from 1024 on",
        }
        fix = fixes.get(error.errno or 0, "name an address of this machine with --host")
        return wrong(what, f"{host}: {error.strerror or error}", fix)
    return fine(what, f"free on {host}")
