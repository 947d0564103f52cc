"""Mutated requests: the server lives, never fails inside, and goes on to answer good ones."""

import random
from collections import Counter
from collections.abc import Callable

import grpc
import pytest
from support.rpc import Stub
from support.served import GOOD, assert_answered

from forwardpass.proto import inference_pb2 as pb

Code = grpc.StatusCode
# RESOURCE_EXHAUSTED: a mutated shape may ask for more rows than the server takes.
EXPECTED = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.UNIMPLEMENTED,
    Code.PERMISSION_DENIED,
    Code.RESOURCE_EXHAUSTED,
}
STARTS = ("linear", "pair typed", "text", "pair")
EXTREMES = (0, 1, -1, 2**31 - 1, 2**31, 2**62, -(2**63), 2**63 - 1)


def drop_a_field(request: pb.ModelInferRequest, generator: random.Random) -> None:
    fields = [field.name for field, _ in request.ListFields()]
    request.ClearField(generator.choice(fields))


def swap_the_inputs(request: pb.ModelInferRequest, generator: random.Random) -> None:
    inputs = list(request.inputs)
    generator.shuffle(inputs)
    del request.inputs[:]
    request.inputs.extend(inputs)


def double_an_input(request: pb.ModelInferRequest, generator: random.Random) -> None:
    if request.inputs:
        request.inputs.append(generator.choice(request.inputs))


def drop_an_input(request: pb.ModelInferRequest, generator: random.Random) -> None:
    if request.inputs:
        del request.inputs[generator.randrange(len(request.inputs))]


def resize_a_shape(request: pb.ModelInferRequest, generator: random.Random) -> None:
    for tensor in request.inputs:
        for axis in range(len(tensor.shape)):
            if generator.random() < 0.5:
                tensor.shape[axis] = generator.choice((*EXTREMES, generator.randrange(50)))


def change_the_rank(request: pb.ModelInferRequest, generator: random.Random) -> None:
    for tensor in request.inputs:
        if generator.random() < 0.5:
            tensor.shape.append(generator.choice(EXTREMES))
        elif tensor.shape:
            tensor.shape.pop()


def cut_the_raw_bytes(request: pb.ModelInferRequest, generator: random.Random) -> None:
    for index, raw in enumerate(request.raw_input_contents):
        cut = generator.randrange(len(raw) + 1)
        request.raw_input_contents[index] = generator.choice(
            (raw[:cut], raw + raw[:cut], generator.randbytes(cut))
        )


def change_the_number_of_raw_tensors(
    request: pb.ModelInferRequest, generator: random.Random
) -> None:
    if request.raw_input_contents and generator.random() < 0.5:
        request.raw_input_contents.pop()
    else:
        request.raw_input_contents.append(generator.randbytes(generator.randrange(40)))


def change_the_datatype(request: pb.ModelInferRequest, generator: random.Random) -> None:
    for tensor in request.inputs:
        tensor.datatype = generator.choice(("FP32", "fp32", "INT64", "BYTES", "BOOL", "FP16", ""))


def fill_another_field(request: pb.ModelInferRequest, generator: random.Random) -> None:
    for tensor in request.inputs:
        tensor.contents.int_contents.extend(generator.choices((-1, 0, 2**31 - 1), k=3))


def ask_for_other_outputs(request: pb.ModelInferRequest, generator: random.Random) -> None:
    for name in generator.choices(("y", "sum", "difference", "", "none"), k=3):
        output = request.outputs.add(name=name)
        if generator.random() < 0.3:
            output.parameters["classification"].int64_param = generator.choice(EXTREMES)


def change_the_names(request: pb.ModelInferRequest, generator: random.Random) -> None:
    field = generator.choice(("model_name", "model_version", "id"))
    setattr(request, field, generator.choice(("", "1", "-1", "../x", "é" * 300, "a\0b")))


def add_parameters(request: pb.ModelInferRequest, generator: random.Random) -> None:
    name = generator.choice(("priority", "timeout", "forwardpass_timing", "sequence_id"))
    parameter = request.parameters[name]
    if generator.random() < 0.5:
        parameter.string_param = "x"
    else:
        parameter.int64_param = generator.choice(EXTREMES)
    for tensor in request.inputs:
        if generator.random() < 0.2:
            tensor.parameters["shared_memory_region"].string_param = "none"


CHANGES: tuple[Callable[[pb.ModelInferRequest, random.Random], None], ...] = (
    drop_a_field,
    swap_the_inputs,
    double_an_input,
    drop_an_input,
    resize_a_shape,
    change_the_rank,
    cut_the_raw_bytes,
    change_the_number_of_raw_tensors,
    change_the_datatype,
    fill_another_field,
    ask_for_other_outputs,
    change_the_names,
    add_parameters,
)


def mutated(generator: random.Random) -> bytes:
    """A good request with one to three things changed, or bytes flipped, or random bytes."""
    if generator.random() < 0.05:
        return generator.randbytes(generator.randrange(300))
    request = GOOD[generator.choice(STARTS)].request()
    for change in generator.choices(CHANGES, k=generator.randint(1, 3)):
        if request.ListFields():
            change(request, generator)
    message = bytearray(request.SerializeToString())
    if message and generator.random() < 0.3:
        for _ in range(generator.randint(1, 4)):
            message[generator.randrange(len(message))] = generator.randrange(256)
        if generator.random() < 0.3:
            del message[generator.randrange(len(message)) :]
    return bytes(message)


def fuzz(stub: Stub, count: int, seed: int) -> Counter[Code]:
    generator = random.Random(seed)
    seen: Counter[Code] = Counter()
    for number in range(count):
        message = mutated(generator)
        code = stub.outcome("ModelInfer", message)
        assert code in EXPECTED, (code, message)
        seen[code] += 1
        if number % 100 == 99:
            assert_answered(stub, GOOD["linear"])
    return seen


def test_a_thousand_mutated_requests(stub: Stub) -> None:
    seen = fuzz(stub, 1_000, seed=0)
    assert seen[Code.INVALID_ARGUMENT] > 500


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_thousand_mutated_requests(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    seen = fuzz(stub, 20_000, seed=1)
    with capsys.disabled():
        print("\n20,000 mutated requests:", {code.name: count for code, count in seen.items()})
