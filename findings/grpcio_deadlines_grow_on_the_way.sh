#!/usr/bin/env bash
# grpcio 1.85.3: the server is given up to a hundredth more time than the client waits.
#
# Expected: `timeout` is sent as it is; time_remaining() in the server is less than it, by the
# time of travel. The header grpc-timeout has eight digits.
# What happens: C-core sends three digits at most and rounds up: 1.001 s is sent as 1010 ms, 100.1
# s as 101 s, 1234.5 s as 1240 s, a day and half a second as a day and 100 s. So at the server the
# deadline is later than at the client, unless the call travels for longer than was added.
# Why it matters: a server that sheds what cannot be done in time, or keeps a margin of some
# milliseconds under time_remaining(), answers calls that nobody waits for; a proxy that hands the
# remaining time on adds another hundredth at each hop. Keep a margin of more than 1 %.
#
# Output seen (seconds):
#     client's timeout   at the server
#     10.001             10.10
#     100.1              101.0
#     1234.5             1240.0
#     86400.5            86500.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check grpcio==1.85.3
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
from concurrent import futures

import grpc


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        return repr(context.time_remaining()).encode()


server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((Handler(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
seen = {}
print("client's timeout   at the server")
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    call = channel.unary_unary("/finding.Service/Answer")
    call(b"", wait_for_ready=True)
    for timeout in (10.001, 100.1, 1234.5, 86400.5):
        # The most of some calls: a busy machine can only make it less.
        seen[timeout] = max(float(call(b"", timeout=timeout)) for _ in range(20))
        print(f"{timeout:<18} {seen[timeout]:.2f}")
server.stop(None).wait()
assert all(remaining > timeout for timeout, remaining in seen.items())
assert seen[1234.5] > 1239 and seen[86400.5] > 86499
PROGRAM
