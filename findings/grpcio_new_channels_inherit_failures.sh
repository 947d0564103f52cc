#!/usr/bin/env bash
# grpcio 1.85.3: a new channel fails at once for what another channel has seen, and tries nothing.
#
# Expected: a channel that is made after the server is up connects, as the first of its process does.
# What happens: channels of one address and equal options share their connections (a pool of the
# process), and with them the pause after a failed attempt. While any other channel to the address is
# open and waits out its pause, a call on the new one is UNAVAILABLE within a millisecond, without an
# attempt to connect. The pause grows to two minutes: as long a program that makes itself a new
# client "to be sure" is refused by a server that answers everybody else.
# Why it matters: a health check, a retry with a new channel, or a test whose port was another
# server's before fails for no reason that it can see. `wait_for_ready` waits the pause out; option
# grpc.use_local_subchannel_pool gives a channel attempts of its own.
#
# Output seen (a channel has failed three calls and is open; then somebody listens, who only counts):
#     shared pool   first call of a new channel UNAVAILABLE, 0 attempts to connect
#     its own pool  first call of a new channel UNAVAILABLE, 1 attempts to connect
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    grpcio==1.85.3
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM' 2>/dev/null
import socket
import threading
import time

import grpc


def call(channel):
    try:
        channel.unary_unary("/service/method")(b"", timeout=5)
    except grpc.RpcError as error:
        return error.code().name


def serve(listener, attempts):
    # Enough of a server to count who connects: it closes at once.
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return
        attempts.append(time.monotonic())


def measure(options):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    address = "127.0.0.1:%d" % listener.getsockname()[1]
    first = grpc.insecure_channel(address, options)
    # Bound and not listening: refused.
    assert [call(first) for _ in range(3)] == ["UNAVAILABLE"] * 3
    attempts = []
    listener.listen()
    threading.Thread(target=serve, args=(listener, attempts), daemon=True).start()
    second = grpc.insecure_channel(address, options)
    code = call(second)
    tried = len(attempts)
    second.close()
    first.close()
    listener.close()
    return code, tried


shared, own = measure([]), measure([("grpc.use_local_subchannel_pool", 1)])
print(f"shared pool   first call of a new channel {shared[0]}, {shared[1]} attempts to connect")
print(f"its own pool  first call of a new channel {own[0]}, {own[1]} attempts to connect")
assert shared == ("UNAVAILABLE", 0)
assert own[1] >= 1
PROGRAM
