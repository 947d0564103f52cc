#!/usr/bin/env bash
# grpcio 1.85.3: a long error message, or long metadata, changes the status code, and by chance.
#
# Expected: the server aborts with INVALID_ARGUMENT and the client sees INVALID_ARGUMENT; a
# message that is too long is cut. A limit on metadata is a number: a call is over it or not.
# What happens: the message travels as metadata. Metadata has a soft limit of 8 KiB and a hard one
# of 16 KiB, and between the two each call is rejected with a chance that grows from 0 to 1. So
# the same error of 12,000 characters is INVALID_ARGUMENT in one call and RESOURCE_EXHAUSTED in
# the next, and the message is gone; from 16 KiB on it is always the latter. Metadata of a request
# fares alike.
# Why it matters: messages with the names of all tensors or columns, a traceback, or a large
# google.rpc.Status in the trailing metadata reach that length in production only.
# RESOURCE_EXHAUSTED is what clients retry, and an alarm for overload counts. Cut messages in the
# server.
#
# Output seen (100 calls each):
#     details of  4000:  INVALID_ARGUMENT 100
#     details of 12000:  INVALID_ARGUMENT 48, RESOURCE_EXHAUSTED 52
#     details of 17000:  RESOURCE_EXHAUSTED 100
#     request metadata of 12000:  OK 51, RESOURCE_EXHAUSTED 49
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check grpcio==1.85.3
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
from collections import Counter
from concurrent import futures

import grpc


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        if request:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x" * int(request))
        return b""


server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((Handler(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()


def codes(call, request=b"", metadata=()):
    seen = Counter()
    for _ in range(100):
        try:
            call(request, metadata=metadata)
            seen["OK"] += 1
        except grpc.RpcError as error:
            seen[error.code().name] += 1
    return seen


def text(seen):
    return ", ".join(f"{name} {count}" for name, count in sorted(seen.items()))


with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    call = channel.unary_unary("/finding.Service/Answer")
    of_length = {}
    for length in (4000, 12000, 17000):
        of_length[length] = codes(call, str(length).encode())
        print(f"details of {length:5}: ", text(of_length[length]))
    requests = codes(call, metadata=(("note", "x" * 12000),))
    print("request metadata of 12000: ", text(requests))
server.stop(None).wait()
assert of_length[4000] == {"INVALID_ARGUMENT": 100}
assert of_length[17000] == {"RESOURCE_EXHAUSTED": 100}
# Half of the way between the limits: 100 calls of one outcome would be a chance of 1 in 2**99.
assert set(of_length[12000]) == {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
assert set(requests) == {"OK", "RESOURCE_EXHAUSTED"}
PROGRAM
