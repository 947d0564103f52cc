"""Calls through the balancer while something happens behind it."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from support.wire import arrays, infer_request

from forwardpass.models import forward
from forwardpass.models.zoo import ZOO
from forwardpass.proto import inference_pb2 as pb

CALLERS = 4
DEADLINE_S = 30.0
MODEL = "breast_cancer"

# What any gRPC client can be told: UNAVAILABLE again.
RETRYING = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
PLAIN = json.dumps({"methodConfig": []})


@dataclass
class Load:
    """What became of the calls so far."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, failure: str | None, took_s: float) -> None:
        with self._lock:
            self.slowest_s = max(self.slowest_s, took_s)
            if failure is None:
                self.answered += 1
            else:
                self.failed.append(failure)

    def assert_none_failed(self, at_least: int) -> None:
        assert not self.failed, (
            f"{len(self.failed)} of {self.answered + len(self.failed)} failed: "
            f"{Counter(self.failed).most_common(3)}"
        )
        assert self.answered >= at_least


@contextmanager
def load(
    port: int,
    *,
    retrying: bool,
    deadline_s: float = DEADLINE_S,
    ca_file: Path | None = None,
    metadata: Sequence[tuple[str, str]] = (),
) -> Iterator[Load]:
    """Call all the time from several threads over one connection; each answer is compared."""
    example = ZOO[MODEL]
    rows = example.held_out().x[:CALLERS].astype(np.float32)
    expected = [forward(example.network(), row[np.newaxis]) for row in rows]
    done = Load()
    stop = threading.Event()

    def call(index: int, infer: Callable[..., Any]) -> None:
        request = infer_request(MODEL, {"x": rows[index : index + 1]})
        while not stop.is_set():
            began = time.monotonic()
            try:
                answer = arrays(infer(request, timeout=deadline_s, metadata=metadata))
            except grpc.RpcError as error:
                told = f"{error.code().name}: {error.details()}"[:300]
                done.note(told, time.monotonic() - began)
                # A server that is gone answers at once: no storm.
                stop.wait(0.05)
                continue
            right = answer.keys() == expected[index].keys() and all(
                np.allclose(answer[name], value, atol=1e-5)
                for name, value in expected[index].items()
            )
            done.note(None if right else f"wrong answer {answer}", time.monotonic() - began)

    options = [("grpc.service_config", RETRYING if retrying else PLAIN)]
    target = f"localhost:{port}"
    if ca_file is None:
        channel = grpc.insecure_channel(target, options)
    else:
        authority = grpc.ssl_channel_credentials(ca_file.read_bytes())
        channel = grpc.secure_channel(target, authority, options)
    with channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        callers = [threading.Thread(target=call, args=(index, infer)) for index in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            yield done
        finally:
            stop.set()
            for caller in callers:
                caller.join()
