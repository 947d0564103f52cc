"""Model files that are not what they declare, or refer to data outside of the model's folder."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from support import onnx_files
from support.hostile_files import Builder, changed, from_bytes
from support.messages import field
from support.onnx_files import linear, save

# Files that lead out of the model's folder.


def external(location: str, offset: int = 0) -> ModelProto:
    """The network `linear` with its weights at a place outside of the file."""
    model = onnx_files.without_its_weights()
    entries = {entry.key: entry for entry in model.graph.initializer[0].external_data}
    entries["location"].value = location
    entries["offset"].value = str(offset)
    return model


def outside(location: str) -> Builder:
    def write(folder: Path) -> Path:
        (folder.parent / "outside.bin").write_bytes(b"\0" * 24)
        return save(external(location.format(outside=folder.parent)), folder / "model.onnx")

    return write


def by_link(to: str) -> Builder:
    """Weights beside the model that are a link."""

    def write(folder: Path) -> Path:
        (folder.parent / "outside.bin").write_bytes(b"\0" * 24)
        (folder / "weights.bin").symlink_to(to.format(outside=folder.parent))
        return save(external("weights.bin"), folder / "model.onnx")

    return write


def by_linked_folder(folder: Path) -> Path:
    (folder.parent / "outside.bin").write_bytes(b"\0" * 24)
    (folder / "data").symlink_to(folder.parent)
    return save(external("data/outside.bin"), folder / "model.onnx")


def by_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "weights.bin")
    return save(external("weights.bin"), folder / "model.onnx")


def by_address(folder: Path) -> Path:
    """onnxruntime's own mark for weights at an address of its memory."""
    place = folder / "*" / "_ORT_MEM_ADDR_" / "*"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"\0" * 64)
    return save(external("*/_ORT_MEM_ADDR_/*", 4096), folder / "model.onnx")


def with_short_data(folder: Path) -> Path:
    (folder / "weights.bin").write_bytes(b"\0" * 23)
    return save(external("weights.bin"), folder / "model.onnx")


def is_a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


def by_hard_link(folder: Path) -> Path:
    """Weights beside the model that are a file elsewhere as well."""
    (folder.parent / "outside.bin").write_bytes(b"\0" * 24)
    (folder / "weights.bin").hardlink_to(folder.parent / "outside.bin")
    return save(external("weights.bin"), folder / "model.onnx")


def is_a_hard_link(folder: Path) -> Path:
    (folder / "model.onnx").hardlink_to(save(linear(), folder.parent / "elsewhere.onnx"))
    return folder / "model.onnx"


def is_a_link(to: str) -> Builder:
    def write(folder: Path) -> Path:
        (folder / "model.onnx").symlink_to(to.format(outside=folder.parent))
        save(linear(), folder.parent / "elsewhere.onnx")
        return folder / "model.onnx"

    return write


# Files that are not what they declare.


def _weights(model: ModelProto) -> TensorProto:
    found: TensorProto = model.graph.initializer[0]
    return found


def _dims(*dims: int) -> Builder:
    def change(model: ModelProto) -> None:
        del _weights(model).dims[:]
        _weights(model).dims.extend(dims)

    return changed(change)


def _values(value: float) -> Builder:
    def change(model: ModelProto) -> None:
        values = np.array([1, value, 3, 4, 5, 6], np.float32)
        _weights(model).raw_data = values.tobytes()

    return changed(change)


def _typed_nan(model: ModelProto) -> None:
    _weights(model).ClearField("raw_data")
    _weights(model).float_data.extend([1, 2, float("nan"), 4, 5, 6])


def _width(values: str, width: int) -> Builder:
    def change(model: ModelProto) -> None:
        getattr(model.graph, values)[0].type.tensor_type.shape.dim[1].dim_value = width

    return changed(change)


def _cut(share: float) -> Builder:
    def make() -> bytes:
        content: bytes = linear().SerializeToString()
        return content[: int(len(content) * share)]

    return from_bytes(make)


def _duplicate_output(model: ModelProto) -> None:
    model.graph.node.append(model.graph.node[0])


def _undefined_input(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "nothing"


def _circle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "a"
    model.graph.node.append(helper.make_node("Add", ["x", "y"], ["a"]))


def _unknown_operator(model: ModelProto) -> None:
    model.graph.node[0].op_type = "Mystery"


def _in_onnxruntimes_format() -> bytes:
    """A good model, except for a producer's name by which onnxruntime assumes another format."""
    content: bytes = linear().SerializeToString()
    return field(2, b"__ORTM" + b"_" * 26) + content


def _not_utf8() -> bytes:
    content: bytes = linear({"key": "value"}).SerializeToString()
    return content.replace(b"value", b"\xff\xfe\xfdue")


ESCAPING: Mapping[str, Builder] = {
    "data at an absolute path": outside("{outside}/outside.bin"),
    "data above the folder": outside("../outside.bin"),
    "data above the folder, hidden": outside("data/../../outside.bin"),
    "data in a device": outside("/dev/zero"),
    "data nowhere": outside(""),
    "data in the folder itself": outside("."),
    "data behind a link": by_link("{outside}/outside.bin"),
    "data behind a link to a device": by_link("/dev/zero"),
    "data behind a linked folder": by_linked_folder,
    "data in a pipe": by_pipe,
    "data at an address": by_address,
    "data that is too short": with_short_data,
    "data in a name of 5,000 letters": outside("x" * 5000),
    "data in a name with NUL": outside("weights\0.bin"),
    "a pipe": is_a_pipe,
    "a link out": is_a_link("{outside}/elsewhere.onnx"),
    "a link to a device": is_a_link("/dev/zero"),
    "a hard link to a file outside": is_a_hard_link,
    "data that are a file outside, too": by_hard_link,
    "a link to itself": is_a_link("model.onnx"),
    "a folder": lambda folder: folder,
}
"""Files that would read data that are not the model's."""

UNTRUE: Mapping[str, Builder] = {
    "huge dims": _dims(2**40, 2**40),
    "dims that overflow to 6": _dims(2**62, 4, 6),
    "an overflow hidden by a zero": _dims(2**62, 2**62, 0),
    "negative dims": _dims(-2, -3),
    "more dims than data": _dims(2, 4),
    "fewer dims than data": _dims(2, 2),
    "no dims": _dims(),
    "a thousand dims": _dims(*[1] * 994, 6),
    "a NaN": _values(float("nan")),
    "an infinity": _values(float("inf")),
    "a NaN in float_data": changed(_typed_nan),
    "an input of another width": _width("input", 4),
    "an output of another width": _width("output", 5),
    "an output of negative width": _width("output", -2),
    "weights of another width": _dims(3, 2),
    "half of a file": _cut(0.5),
    "all but the last byte": _cut(0.999),
    "no bytes": _cut(0.0),
    "text": from_bytes(lambda: b"this is no model"),
    "bytes behind the model": from_bytes(
        lambda: linear().SerializeToString() + field(900, b"garbage")
    ),
    "the same node twice": changed(_duplicate_output),
    "an input that nothing gives": changed(_undefined_input),
    "nodes in a circle": changed(_circle),
    "an unknown operator": changed(_unknown_operator),
    "an opset of the future": changed(lambda model: setattr(model.opset_import[0], "version", 999)),
    "an IR version of the future": changed(lambda model: setattr(model, "ir_version", 999)),
    "a mark of onnxruntime's own format": from_bytes(_in_onnxruntimes_format),
    "texts that are none": from_bytes(_not_utf8),
}
"""Files that are not what they declare."""
