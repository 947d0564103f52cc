"""python-hyper's h2 as a client that keeps every rule, and fails if the server breaks one."""

import random
import socket
from collections import defaultdict
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from support.peers.frames import BODY, FIELDS, grpc_message
from support.peers.peer import Answer
from support.rpc import Stub
from support.served import GOOD

TIMEOUT_S = 60.0
CALLS = 20
STREAMS = 6
"""At a time; the server takes two more."""


class Client:
    """One connection of h2: sends as its windows let, and reads in between."""

    def __init__(self, port: int, rng: random.Random, window: int) -> None:
        """Connect; window is what a stream's answer has before more is granted."""
        self.rng = rng
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        code = h2.settings.SettingCodes
        self.h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                code.ENABLE_PUSH: 0,
                code.INITIAL_WINDOW_SIZE: window,
                code.MAX_FRAME_SIZE: rng.choice((2**14, 2**15, 2**24 - 1)),
                code.HEADER_TABLE_SIZE: rng.choice((0, 1, 100, 4096, 65536)),
            },
        )
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        # As a network may cut it.
        while data:
            size = self.rng.choice((1, 9, 50, len(data)))
            self.socket.sendall(data[:size])
            data = data[size:]

    def read(self) -> None:
        """Read once; raises h2's ProtocolError for whatever a server may not send."""
        data = self.socket.recv(2**16)
        assert data, "the server closed the connection"
        for event in self.h2.receive_data(data):
            self._note(event)
        self.flush()

    def _note(self, event: Any) -> None:
        answer = self.answers[getattr(event, "stream_id", 0) or 0]
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                headers: Any = event.headers  # text, by header_encoding
                answer.sections.append(dict(headers))
            case h2.events.DataReceived():
                answer.data += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                answer.ended = True
            case h2.events.StreamReset():
                answer.reset = event.error_code
            case h2.events.ConnectionTerminated():
                raise AssertionError(f"GOAWAY: {event}")

    def call(self, extra: int = 0) -> "Sending":
        """Begin a call; extra fields make its field section long."""
        stream_id = self.h2.get_next_available_stream_id()
        fields = [*FIELDS.items(), *((f"x-{n}", "v" * n) for n in range(extra))]
        if self.rng.random() < 0.2:
            self.h2.prioritize(stream_id, weight=7, depends_on=0)
        self.h2.send_headers(stream_id, fields)
        return Sending(self, stream_id)


class Sending:
    """A call whose message is sent in random parts."""

    def __init__(self, client: Client, stream_id: int) -> None:
        self.client, self.stream_id, self.rest = client, stream_id, BODY

    def step(self) -> bool:
        """Send a part; True if it was the last."""
        client, rng = self.client, self.client.rng
        window = client.h2.local_flow_control_window(self.stream_id)
        padding = rng.choice((None, None, 0, 1, 200))
        # The padding and its length are flow-controlled as well.
        room = min(window, client.h2.max_outbound_frame_size) - 1 - (padding or 0)
        size = min(rng.choice((0, 1, 5, 6, 20, len(self.rest))), max(0, room), len(self.rest))
        part, self.rest = self.rest[:size], self.rest[size:]
        # Few enough that they are no flood.
        if part or not self.rest:
            client.h2.send_data(self.stream_id, part, end_stream=not self.rest, pad_length=padding)
        client.flush()
        return not self.rest


@pytest.mark.parametrize("seed", range(10))
def test_calls_in_random_turns_parts_and_windows_are_all_answered(port: int, seed: int) -> None:
    rng = random.Random(seed)
    client = Client(port, rng, window=rng.choice((1, 10, 100, 2**16 - 1)))
    under_way: list[Sending] = []
    wanted: set[int] = set()
    begun = 0
    try:
        while begun < CALLS or under_way or wanted:
            for stream_id in [each for each in wanted if client.answers[each].ended]:
                client.answers[stream_id].assert_good()
                wanted.remove(stream_id)
            if begun < CALLS and len(wanted) < STREAMS and rng.random() < 0.5:
                under_way.append(client.call(extra=rng.choice((0, 0, 1, 40))))
                wanted.add(under_way[-1].stream_id)
                begun += 1
            elif under_way and rng.random() < 0.9:
                sending = rng.choice(under_way)
                if rng.random() < 0.05:
                    client.h2.reset_stream(sending.stream_id)
                    client.flush()
                    under_way.remove(sending)
                    wanted.discard(sending.stream_id)
                elif sending.step():
                    under_way.remove(sending)
            elif wanted - {sending.stream_id for sending in under_way}:
                client.read()
    finally:
        client.socket.close()


def test_a_large_answer_comes_whole_through_small_windows(port: int) -> None:
    request = GOOD["linear"].request()
    rows = 30_000
    request.inputs[0].shape[0] = rows
    request.raw_input_contents[0] = bytes(12 * rows)
    with Stub(port) as stub:
        expected = stub.infer(request)
    client = Client(port, random.Random(3), window=5_000)
    try:
        sending = client.call()
        sending.rest = grpc_message(request.SerializeToString())
        while not sending.step():
            if client.h2.local_flow_control_window(sending.stream_id) < 300:
                client.read()
        answer = client.answers[sending.stream_id]
        while not answer.ended:
            client.read()
        assert answer.data == grpc_message(expected.SerializeToString())
    finally:
        client.socket.close()
