"""Run a server, call it, and print what left the machine: in a network namespace of its own.

    unshare -rn python -m support.isolated MODELS SECONDS

There is a loopback here and nothing else, so whatever is sent anywhere finds no route, and the
kernel counts it.
"""

import fcntl
import json
import os
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from support.command import serving
from support.rpc import Stub
from support.wire import infer_request

_SIOCSIFFLAGS = 0x8914
_UP_RUNNING = 0x41


def main() -> None:
    models, seconds = Path(sys.argv[1]), float(sys.argv[2])
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _UP_RUNNING))
    with serving(models, "--port", "0", "--metrics-port", "0", "--log-calls") as server:
        calls = call_for(seconds, server.target)
        folder = Path(f"/proc/{server.process.pid}/fd")
        held = [os.readlink(entry) for entry in folder.iterdir()]
    quiet = sent()
    # The same counters see what does go out.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out, suppress(OSError):
        out.sendto(b"telemetry", ("192.0.2.1", 53))
    print(json.dumps({"calls": calls, "held": held, "quiet": quiet, "spoken": sent()}))


def call_for(seconds: float, target: str) -> int:
    calls = 0
    deadline = time.monotonic() + seconds
    with Stub(target) as stub:
        while time.monotonic() < deadline:
            stub.infer(infer_request("m", {"x": np.ones((1, 2), np.float32)}))
            calls += 1
            time.sleep(0.002)
    return calls


def sent() -> dict[str, int]:
    """Return the packets sent in this namespace without a route, and as UDP."""
    four: dict[str, str] = {}
    lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines()]
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        four |= {names[0] + name: value for name, value in zip(names[1:], values[1:], strict=True)}
    six = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return {
        "no route": int(four["Ip:OutNoRoutes"]) + int(six["Ip6OutNoRoutes"]),
        "udp": int(four["Udp:OutDatagrams"]) + int(six["Udp6OutDatagrams"]),
    }


if __name__ == "__main__":
    main()
