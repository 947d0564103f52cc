"""The table of datatypes is the protocol's."""

from typing import Literal

import numpy as np
import pytest
from support.wire import DTYPES, TYPED_FIELDS

from forwardpass.proto.datatypes import DATATYPES, datatype_of


def test_the_table_is_the_protocols() -> None:
    assert {name: datatype.name for name, datatype in DATATYPES.items()} == {n: n for n in DTYPES}
    assert {name: datatype.dtype for name, datatype in DATATYPES.items()} == DTYPES
    assert {
        name: datatype.contents_field
        for name, datatype in DATATYPES.items()
        if datatype.contents_field is not None
    } == TYPED_FIELDS


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        DATATYPES["FP32"] = DATATYPES["FP64"]  # type: ignore[index]


@pytest.mark.parametrize("order", ["<", ">", "="])
@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_a_dtype_of_any_byte_order_has_its_datatype(
    datatype: str, order: Literal["<", ">", "="]
) -> None:
    dtype = DTYPES[datatype].newbyteorder(order)

    assert datatype_of(dtype).name == datatype


@pytest.mark.parametrize("dtype", ["O", "S", "S7", "U", "U3"])
def test_text_of_any_kind_is_bytes(dtype: str) -> None:
    assert datatype_of(np.dtype(dtype)).name == "BYTES"


@pytest.mark.parametrize("name", ["longlong", "ulonglong", "intp", "uintp", "double", "half"])
def test_other_names_of_a_dtype_are_the_same(name: str) -> None:
    dtype = np.dtype(name)

    assert DTYPES[datatype_of(dtype).name] == dtype


@pytest.mark.parametrize("dtype", ["c8", "c16", "M8[s]", "m8[s]", "V4", "longdouble", "f4,i4"])
def test_a_dtype_without_datatype_is_a_key_error(dtype: str) -> None:
    with pytest.raises(KeyError):
        datatype_of(np.dtype(dtype))
