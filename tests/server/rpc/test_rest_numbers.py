"""Decimal numbers over HTTP: rounded once, to the nearest float32, with the sign of -0."""

import json
import math
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from support import onnx_files, rest
from support.rest import Rest

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.errors import InvalidRequestError, MessageTooLargeError
from forwardpass.server.rpc.rest.decimals import are_unusual, halfway
from forwardpass.server.rpc.rest.infer_requests import InferRequests

LARGEST_BITS = 0x7F7FFFFF
LARGEST = struct.unpack("<f", struct.pack("<I", LARGEST_BITS))[0]
BINARY = {"parameters": {"binary_data_output": True}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("numbers")
    for datatype in ("FP32", "FP64", "INT64"):
        flat, rows = onnx_files.identity(datatype, ["n"]), onnx_files.identity(datatype, ["n", 1])
        for name, model in (("flat", flat), ("rows", rows)):
            onnx_files.save(model, root / f"{name}_{datatype.lower()}" / "1" / "model.onnx")
    with Server(Config(models=root, port=0, http_port=0, transport=Transport.ASYNCIO)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Rest]:
    with Rest(server.http_port) as client:
        yield client


Ask = Callable[[Rest, str, Sequence[str]], np.ndarray]


def asked(client: Rest, model: str, shape: list[int], data: str, datatype: str) -> np.ndarray:
    text = (
        f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":[{data}]}}],'
        '"parameters":{"binary_data_output":true}}'
    )
    answer = client.post(f"/v2/models/{model}_{datatype.lower()}/infer", text.encode())
    return rest.arrays(answer)["y"].ravel()


def flat(client: Rest, datatype: str, texts: Sequence[str]) -> np.ndarray:
    return asked(client, "flat", [len(texts)], ",".join(texts), datatype)


def nested(client: Rest, datatype: str, texts: Sequence[str]) -> np.ndarray:
    return asked(client, "rows", [len(texts), 1], ",".join(f"[{t}]" for t in texts), datatype)


def long(client: Rest, datatype: str, texts: Sequence[str]) -> np.ndarray:
    """Among so many others that a list is read in parts, and at the ends of these, too."""
    half = "0.5" if datatype.startswith("FP") else "5"
    filled = [*texts, *[half] * 20_000, *texts, *["2"] * 40_000, *texts]
    found = flat(client, datatype, filled)
    count = len(texts)
    for at in (20_000 + count, 60_000 + 2 * count):
        assert found[at : at + count].tobytes() == found[:count].tobytes()
    return found[:count]


def predicted(client: Rest, datatype: str, texts: Sequence[str]) -> np.ndarray:
    body = ",".join(f'{{"x":{text}}}' for text in texts)
    answer = client.post(f"/v2/models/rows_{datatype.lower()}:predict", f"[{body}]".encode()).json
    found = [row["y"]["values"][0] for row in answer["predictions"]]
    return np.array(found, {"FP32": np.float32, "FP64": np.float64}[datatype])


WAYS: dict[str, Ask] = {"flat": flat, "nested": nested, "long": long, "predicted": predicted}


def float32(bits: int) -> float:
    (found,) = struct.unpack("<f", struct.pack("<I", bits))
    return float(found)


def nearest(text: str) -> float:
    """The float32 nearest to a text, by fractions alone: the even one if two are."""
    exact = Fraction(text)
    (bits,) = struct.unpack("<I", struct.pack("<f", abs(float(text)) * (1 - 2**-30)))
    near = [float32(min(max(0, bits + step), LARGEST_BITS)) for step in range(-2, 4)]
    best = min(near, key=lambda each: (abs(Fraction(each) - abs(exact)), _bits(each) & 1))
    return math.copysign(best, -1 if text.startswith("-") else 1)


def _bits(number: float) -> int:
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    return int(bits)


def middles(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Texts of what is halfway between two float32, a little below, and a little above it."""
    fixed = [0, 1, 2, 0x7FFFFE, 0x7FFFFF, 0x800000, 0x800001, 0x3F800000, 0x4B800000, 0x7F7FFFFE]
    for bits in [*fixed, *(rng.randrange(0x7F7FFFFF) for _ in range(150))]:
        middle = (float32(bits) + float32(bits + 1)) / 2
        # 60 digits more than it has: as float64 all three are the same.
        with localcontext() as context:
            context.prec = 250
            exact = Decimal(middle)
            little = exact * Decimal("1e-25")
            yield tuple(map(str, (exact, exact - little, exact + little)))  # type: ignore[misc]


CASES = [text for texts in middles(random.Random(7)) for text in texts]


@pytest.mark.parametrize("way", WAYS)
def test_numbers_between_two_float32_become_the_nearest_one(client: Rest, way: str) -> None:
    texts = CASES + ["-" + text for text in CASES]
    expected = np.array(list(map(nearest, texts)), np.float32)
    twice_rounded = np.array(list(map(float, texts)), np.float64).astype(np.float32)
    assert (expected != twice_rounded).sum() > len(texts) // 10
    for _ in range(2):
        # The second time by the form of the first.
        assert WAYS[way](client, "FP32", texts).tobytes() == expected.tobytes()


@pytest.mark.parametrize("way", WAYS)
def test_large_integers_are_rounded_once_as_well(client: Rest, way: str) -> None:
    texts = [str(2**60 + 2**36 + each) for each in (-1, 0, 1)]
    texts += [str(-(2**63) - 2**39 + each) for each in (-1, 0, 1)]
    texts += [str(2**100 + 2**76 + each) for each in (-1, 0, 1)]
    expected = np.array(list(map(nearest, texts)), np.float32)
    assert WAYS[way](client, "FP32", texts).tobytes() == expected.tobytes()


@pytest.mark.parametrize("way", WAYS)
def test_random_numbers_become_what_numpy_makes_of_them(client: Rest, way: str) -> None:
    rng = random.Random(11)
    texts = [
        f"{rng.uniform(-1, 1) * 10 ** rng.randrange(-44, 38):.{rng.randrange(1, 20)}g}"
        for _ in range(500)
    ]
    texts += [repr(float32(rng.randrange(0x7F800000))) for _ in range(500)]
    texts += [str(rng.randrange(-(10**6), 10**6)) for _ in range(200)]
    for datatype, dtype in (("FP32", np.float32), ("FP64", np.float64)):
        expected = np.array(list(map(float, texts))).astype(dtype)
        assert WAYS[way](client, datatype, texts).tobytes() == expected.tobytes()


@pytest.mark.parametrize("way", WAYS)
def test_fp64_is_not_touched_by_what_lies_between_float32(client: Rest, way: str) -> None:
    texts = CASES[:60]
    expected = np.array(list(map(float, texts)))
    assert WAYS[way](client, "FP64", texts).tobytes() == expected.tobytes()


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "texts", [["-0", "0", "-0.0", "1"], ["-0", "-0.5", " -0 ", "-0e5"], ["-0"]]
)
def test_minus_zero_keeps_its_sign(client: Rest, way: str, datatype: str, texts: list[str]) -> None:
    found = WAYS[way](client, datatype, texts)
    assert found.tolist() == list(map(float, texts))
    assert np.signbit(found).tolist() == [text.strip().startswith("-") for text in texts]


def test_minus_zero_is_an_integer(client: Rest) -> None:
    for way in (flat, nested, long):
        assert way(client, "INT64", ["-0", "0", "-1"]).tolist() == [0, 0, -1]


def test_between_the_largest_float32_and_infinity_the_nearest_counts(client: Rest) -> None:
    edge = 2**128 - 2**103
    below, above = f"{edge - 1}.5", f"{edge}.5"
    for way in WAYS.values():
        assert way(client, "FP32", [below, f"-{below}"]).tolist() == [LARGEST, -LARGEST]
    for text in (above, str(edge), f"-{edge}", "1e39", "1e400", "9" * 400):
        for filled in ([text], [text] * 40_000, ["0"] * 40_000 + [text]):
            shape, data = f"[{len(filled)}]", ",".join(filled)
            body = (
                f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"data":[{data}]}}]}}'
            )
            answer = client.post("/v2/models/flat_fp32/infer", body.encode())
            assert answer.status == 400, text
            assert "range" in answer.error or "too large" in answer.error


def test_words_among_numbers_change_nothing(client: Rest) -> None:
    middle = CASES[-1]
    texts = ['"NaN"', "-0", middle, "Infinity", '"-Infinity"', "0.1"]
    for way in (flat, nested, long):
        found = way(client, "FP32", texts)
        assert found[2] == np.float32(nearest(middle))
        assert np.signbit(found[1])
        assert np.isnan(found[0])
        assert found[3:5].tolist() == [math.inf, -math.inf]


def test_inputs_of_several_datatypes_are_read_each_by_its_own() -> None:
    middle = CASES[-1]
    for count in (1, 30_000):
        data = ",".join([middle, *["7"] * (count - 1)])
        inputs = ",".join(
            f'{{"name":"{each}","datatype":"{each}","shape":[{count}],"data":[{values}]}}'
            for each, values in (
                ("FP64", data),
                ("FP32", data),
                ("INT8", ",".join(["-0"] * count)),
                ("FP64", data),
            )
        )
        message, _ = InferRequests(2**30).read("m", "", f'{{"inputs":[{inputs}]}}'.encode())
        raws = pb.ModelInferRequest.FromString(bytes(message)).raw_input_contents
        assert np.frombuffer(raws[0], np.float64)[0] == float(middle)
        assert np.frombuffer(raws[1], np.float32)[0] == np.float32(nearest(middle))
        assert raws[2] == bytes(count)
        assert raws[0] == raws[3]


def test_what_is_looked_at_again_is_rare_and_all_there_is() -> None:
    rng = np.random.default_rng(5)
    usual = rng.normal(size=(20_000, 30)) * 10.0 ** rng.integers(-6, 7, (20_000, 30))
    for numbers in (usual, usual.astype(np.float32).astype(np.float64), np.round(usual, 4)):
        odd = sum(are_unusual(row.tobytes()) for row in numbers)
        # Of millions with four decimals a few are halfway.
        assert odd <= 20
    assert not are_unusual(np.array([0.0, -0.0, 1.0, 0.5, 3.0, 2.0**24]).tobytes())
    texts = np.array(list(map(float, CASES)))
    assert len(halfway(texts)) == len(texts)
    for number in texts:
        assert are_unusual(np.array([number]).tobytes())


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64"])
@pytest.mark.parametrize("texts", ["0,0,0,0,0,0,0,0.5", "0,0,0,0,0,0,0,3000000000", "1,-0", "1e9"])
def test_long_lists_take_memory_of_at_most_four_times_a_message(datatype: str, texts: str) -> None:
    """Also if it is refused: one float among integers makes float64 of two bytes."""
    most = 2**20
    count = most // (len(texts) + 1)
    elements = count * (texts.count(",") + 1)
    start = f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[{elements}],"data":['
    body = f"{start}{','.join([texts] * count)}]}}]}}".encode()
    requests = InferRequests(most)
    tracemalloc.start()
    try:
        with suppress(MessageTooLargeError, InvalidRequestError):
            message, _ = requests.read("m", "", body)
            assert len(message) < most + 2**10
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # Beside the body.
    assert peak < 3 * most + 2**21


def test_more_than_a_message_may_hold_is_refused_before_it_is_packed() -> None:
    for datatype, most in (("FP64", 2**18), ("INT8", 2**15)):
        entry = {"name": "x", "datatype": datatype, "shape": [2**16], "data": [0] * 2**16}
        body = json.dumps({"inputs": [entry]}).encode()
        with pytest.raises(MessageTooLargeError, match=f"above the server's limit of {most}"):
            InferRequests(most).read("m", "", body)
        InferRequests(2**20).read("m", "", body)
