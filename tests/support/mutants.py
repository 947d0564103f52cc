"""Model files that were good once: bytes flipped, cut and spliced, fields of the tree changed."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message
from onnx import ModelProto, TensorProto

OPERATORS = """
    Add ArgMax Cast Clip Concat Constant ConstantOfShape Conv Div Expand Flatten Gather Gemm
    Identity If LayerNormalization Loop MatMul Max Mod Pad Pow QuantizeLinear Range ReduceSum Relu
    Reshape Sigmoid Slice Softmax Split Squeeze Sub Tile TopK Transpose Unsqueeze Where
    """.split()  # noqa: SIM905 - a list to read
NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 64, 1000, 2**20, 2**31 - 1, 2**40, 2**63 - 1)
REALS = (0.0, -1.0, 1e-45, 3.4e38, float("inf"), float("nan"))

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def mutate(rng: random.Random, files: Sequence[bytes]) -> bytes:
    """Return one of the files, changed once to four times."""
    content = rng.choice(files)
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = rng.choice(MUTATIONS)(rng, content, files)
    return content


def _flip(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _turn in range(rng.choice((1, 1, 3, 20))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, end = sorted(rng.randrange(len(content) + 1) for _end in range(2))
    return rng.choice((content[:end], content[:start] + content[end:]))


def _splice(rng: random.Random, content: bytes, files: Sequence[bytes]) -> bytes:
    other = rng.choice(files)
    start, end = sorted(rng.randrange(len(other) + 1) for _end in range(2))
    at = rng.randrange(len(content) + 1)
    return content[:at] + other[start:end] + content[at:]


def _change_tree(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Change fields of the model as a message, so that it still parses."""
    try:
        model = ModelProto.FromString(content)
    except Exception:
        return content
    for _turn in range(rng.choice((1, 1, 2, 3))):
        _change(rng, model)
    changed: bytes = model.SerializeToString()
    return changed


def _change(rng: random.Random, root: Message) -> None:
    message = rng.choice(_messages(root))
    field: Any = rng.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.message_type is not None:
        _change_messages(rng, root, message, field.name, value)
        return
    new = _new_value(rng, root, field)
    try:
        if isinstance(value, str | bytes | int | float):
            setattr(message, field.name, new)
        elif len(value) and rng.random() < 0.7:
            value[rng.randrange(len(value))] = new
        elif rng.random() < 0.5:
            value.append(new)
        else:
            del value[:]
    # A number or an enum that the field does not take.
    except (ValueError, TypeError):
        message.ClearField(field.name)


def _change_messages(
    rng: random.Random, root: Message, message: Message, name: str, value: Any
) -> None:
    """Drop, double, exchange or replace what a field holds."""
    if isinstance(value, Message):
        same = [each for each in _messages(root) if type(each) is type(value)]
        if rng.random() < 0.5 or not same:
            message.ClearField(name)
        else:
            copy = type(value)()
            copy.CopyFrom(rng.choice(same))
            getattr(message, name).CopyFrom(copy)
        return
    if not len(value):
        value.add()
        return
    index = rng.randrange(len(value))
    match rng.randrange(3):
        case 0:
            del value[index]
        case 1:
            value.append(value[index])
        case _:
            other = type(value[index])()
            other.CopyFrom(value[index])
            del value[index]
            value.append(other)


def _new_value(rng: random.Random, root: Message, field: Any) -> object:
    kind = field.cpp_type
    if kind == field.CPPTYPE_STRING:
        if field.name == "raw_data":
            return rng.randbytes(rng.choice((0, 1, 4, 8, 24, 100)))
        texts = OPERATORS if field.name == "op_type" else [*_names(root), "", "nothing"]
        text = rng.choice(texts)
        return text.encode() if field.type == field.TYPE_BYTES else text
    if kind in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(REALS)
    if field.name in ("data_type", "elem_type"):
        return rng.choice(list(TensorProto.DataType.values()))
    return rng.choice(NUMBERS)


def _messages(root: Message) -> list[Message]:
    found, waiting = [], [root]
    while waiting:
        message = waiting.pop()
        found.append(message)
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend((value,) if isinstance(value, Message) else value)
    return found


def _names(root: Message) -> list[str]:
    return [
        text
        for message in _messages(root)
        if isinstance(text := getattr(message, "name", ""), str) and text
    ]


MUTATIONS: Sequence[Mutation] = (
    _flip,
    _cut,
    _splice,
    *[_change_tree] * 6,
)
