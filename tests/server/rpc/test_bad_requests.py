"""A request for what is not there, or not done, has its status code and says why."""

from pathlib import Path

import grpc
import pytest
from support.bad_requests import (
    LONG,
    Bad,
    assert_refused,
    both,
    message,
    outputs,
    parameter,
    raw,
    tensor_parameter,
)
from support.rpc import Stub
from support.served import GOOD

Code = grpc.StatusCode

X = "input 'x'"
Y = "output 'y'"

OUTPUTS = (
    [
        Bad("unknown output", "linear", outputs("z"), ("one of 'y'", "got 'z'"), "output 'z'"),
        Bad("empty output name", "linear", outputs(""), ("one of 'y'", "got ''"), "output ''"),
        Bad("an input as output", "linear", outputs("x"), ("one of 'y'", "got 'x'"), "output 'x'"),
        Bad("known and unknown", "linear", outputs("y", "z"), ("got 'z'",), "output 'z'"),
        Bad("an output twice", "linear", outputs("y", "y"), ("got it twice",), Y),
        Bad("output name of 100 kB", "linear", outputs("n" * LONG), ("output 'nnn",)),
        Bad("no class", "linear", outputs("y", classification={"int64_param": 0}), ("got 0",), Y),
        Bad(
            "-1 classes", "linear", outputs("y", classification={"int64_param": -1}), ("got -1",), Y
        ),
    ]
    + [
        Bad(
            f"classes as {kind}",
            "linear",
            outputs("y", classification={kind: value} if value is not None else {}),
            ("classification as an int64 of at least 1", f"got {kind}"),
            Y,
        )
        for kind, value in {
            "string_param": "2",
            "bool_param": True,
            "double_param": 2.0,
            "uint64_param": 2,
            "None": None,
        }.items()
    ]
    + [
        Bad(
            "classes of text",
            "text",
            outputs("y", classification={"int64_param": 1}),
            ("classification", "BYTES"),
            Y,
        )
    ]
)

PARAMETERS = [
    Bad(
        f"{key} as {kind}",
        "linear",
        parameter(key, **{kind: value}),
        ("expected an integer", f"got {kind}"),
        f"parameter '{key}'",
    )
    for key in ("priority", "timeout")
    for kind, value in {"string_param": "1", "bool_param": True, "double_param": 1.0}.items()
] + [
    Bad(
        "input in shared memory",
        "linear",
        both(raw(), tensor_parameter("shared_memory_region", string_param="region")),
        (X, "shared memory", "--shared-memory"),
        code=Code.PERMISSION_DENIED,
    ),
    Bad(
        "output in shared memory",
        "linear",
        outputs("y", shared_memory_region={"string_param": "region"}),
        (Y, "shared memory", "--shared-memory"),
        code=Code.PERMISSION_DENIED,
    ),
]

CHANGED = [
    Bad(
        f"{key} {what}",
        "linear",
        parameter(key, string_param=sent),
        ("version 1 is another one by now", f"parameter {key!r}"),
        code=Code.ABORTED,
    )
    for key in ("forwardpass_signature", "forwardpass_content")
    for what, sent in {"empty": "", "of another model": "0" * 16, "long": "é" * LONG}.items()
]

MODELS = [
    Bad(f"model {name[:20]!r}", "linear", message(model_name=name), says, code=Code.NOT_FOUND)
    for name, says in {
        "nothing": ("'nothing'", "available: ", "constant"),
        "": ("''", "available: "),
        "LINEAR": ("'LINEAR'",),
        "linear ": ("'linear '",),
        "linear/1": ("'linear/1'",),
        "../linear": ("'../linear'",),
        "../../../../etc/passwd": ("/etc/passwd'",),
        "/etc/passwd": ("'/etc/passwd'",),
        "linear\0": ("'linear\\x00'",),
        "n" * LONG: ("nnn",),
        "é" * LONG: ("ééé",),
        "\n" * LONG: ("\\n\\n",),
    }.items()
]

VERSIONS = [
    Bad(
        f"version {version[:20]!r} is unknown",
        "linear",
        message(model_version=version),
        ("'linear'", f"'{version}'", "available: 1"),
        code=Code.NOT_FOUND,
    )
    for version in ("2", "0", "02", "9" * 18)
] + [
    Bad(
        f"version {version[:20]!r}",
        "linear",
        message(model_version=version),
        ("expected a number", repr(version)[:100]),
        "model_version",
    )
    for version in (
        "abc",
        "-1",
        "+1",
        "1.0",
        " 1",
        "1\n",
        "1\0",
        "0x1",
        "1_0",
        "\u0661",  # a digit to Python, not to the protocol
        "../1",
        "9" * 19,
        "9" * LONG,
        "v" * LONG,
        "é" * LONG,
    )
]

FAILED = [
    Bad(
        "a file that is no model",
        "linear",
        message(model_name="garbage"),
        ("'garbage' version 1", "do not parse"),
        code=Code.FAILED_PRECONDITION,
    ),
    Bad(
        "a file without its weights",
        "linear",
        message(model_name="weightless"),
        ("'weightless' version 1", "weights.bin"),
        code=Code.FAILED_PRECONDITION,
    ),
    Bad(
        "an output of no datatype",
        "linear",
        message(model_name="sequence"),
        ("'probabilities'", "seq(tensor(float))", "only tensors"),
        code=Code.FAILED_PRECONDITION,
    ),
    Bad(
        "a failed version beside a good one",
        "linear",
        message(model_name="partly_broken", model_version="2"),
        ("'partly_broken' version 2", "do not parse"),
        code=Code.FAILED_PRECONDITION,
    ),
    Bad(
        "an index that the graph cannot look up",
        "pick",
        raw((9).to_bytes(8, "little") * 2),
        ("'pick'", "'look_up'", "Gather", "idx=9", "[-4,3]"),
    ),
    Bad(
        "a shape that the graph cannot take",
        "fold",
        raw(bytes(8), (7).to_bytes(8, "little")),
        ("'fold'", "'fold_up'", "Reshape", "requested shape:{7}"),
    ),
]

TABLE = [
    *OUTPUTS,
    *PARAMETERS,
    *CHANGED,
    *MODELS,
    *VERSIONS,
    *FAILED,
]


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.id)
def test_is_refused_with_its_code_and_what_is_wrong(stub: Stub, bad: Bad) -> None:
    assert_refused(stub, bad)


def test_no_two_rows_have_one_name() -> None:
    ids = [bad.id for bad in TABLE]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("bad", FAILED, ids=lambda bad: bad.id)
def test_a_failure_reports_nothing_of_the_servers_disk(
    stub: Stub, repository: Path, bad: Bad
) -> None:
    request = GOOD[bad.good].request()
    bad.change(request)

    told = stub.refusal("ModelInfer", request).message

    for secret in (str(repository), str(repository.resolve()), "onnxruntime_src", ".cc:", ".h:"):
        assert secret not in told
