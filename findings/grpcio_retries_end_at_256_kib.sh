#!/usr/bin/env bash
# grpcio 1.85.3: a retry policy holds for requests up to 256 KiB.
#
# Expected: a `retryPolicy` in the service config retries a unary call that came back UNAVAILABLE,
# whatever its size; the message is in memory anyway. gRPC's limits are at 4 MiB and raise.
# What happens: a call keeps its request for another try only while it fits
# grpc.per_rpc_retry_buffer_size, 262144 bytes. A larger one is sent once and its UNAVAILABLE is
# final, without a word. Nothing tells the two apart but the server's count of tries. (A wrong
# service config raises, but for the names of its fields: with `retrypolicy` there is no retry.)
# Why it matters: the smoke test sends one row and is retried; a picture of 3 x 160 x 160 float32,
# or 8192 rows of 8, is not, and those are the calls that a restarting server loses. Set
# ("grpc.per_rpc_retry_buffer_size", the largest message) together with the policy.
#
# Output seen (the server fails the first try of each call):
#     bytes      tries   outcome
#     1000       2       OK
#     262000     2       OK
#     262200     1       UNAVAILABLE
#     1000000    1       UNAVAILABLE
#     1000000    2       OK            with per_rpc_retry_buffer_size
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check grpcio==1.85.3
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import json
from concurrent import futures

import grpc

tries = 0


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        global tries
        tries += 1
        if tries == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return b""


server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((Handler(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
policy = {
    "maxAttempts": 4,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})


def outcome(size, *options):
    global tries
    tries = 0
    options = [("grpc.service_config", config), *options]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        try:
            channel.unary_unary("/finding.Service/Answer")(bytes(size))
            name = "OK"
        except grpc.RpcError as error:
            name = error.code().name
    more = (name.removeprefix("grpc.") for name, _ in options[1:])
    print(f"{size:<10} {tries:<7} {name:13}", *more)
    return tries, name


print("bytes      tries   outcome")
seen = [outcome(size) for size in (1000, 262_000, 262_200, 1_000_000)]
larger = outcome(1_000_000, ("grpc.per_rpc_retry_buffer_size", 2_000_000))
server.stop(None).wait()
assert seen == [(2, "OK"), (2, "OK"), (1, "UNAVAILABLE"), (1, "UNAVAILABLE")]
assert larger == (2, "OK")
PROGRAM
