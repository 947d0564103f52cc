"""What callers send against what the model was made for."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import TensorSpec
from forwardpass.server.engine.drift import Drift, Values

RANGE = ColumnNames(low=(0.0, -1.0), high=(1.0, 1.0))


def spec(datatype: str = "FP32", width: int = 2) -> TensorSpec:
    return TensorSpec(name="x", datatype=datatype, shape=(-1, width), symbols=("batch", None))


def looked_at(batches: Sequence[np.ndarray], columns: ColumnNames = RANGE) -> Values:
    drift = Drift([spec(width=batches[0].shape[1])], {"x": columns})
    for batch in batches:
        drift.look({"x": batch})
    return drift.read()["x"]


def test_values_outside_their_columns_range_and_nan_are_counted_apart() -> None:
    batch = np.array(
        [[0.5, 0.0], [-0.1, 0.0], [1.1, -1.1], [np.nan, 2.0], [np.inf, -np.inf], [0, 1]],
        np.float32,
    )

    # Outside: -0.1, 1.1, -1.1, 2, inf, -inf; the bounds themselves are inside.
    assert looked_at([batch]) == Values(seen=12, outside=6, nan=1)


def test_a_bound_is_inside_though_float32_rounds_it() -> None:
    columns = ColumnNames(low=(0.1,), high=(0.3,))
    batch = np.array([[0.1], [0.3]], np.float32)

    assert looked_at([batch], columns) == Values(seen=2)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=200))
def test_every_value_of_small_batches_is_looked_at_once(sizes: list[int]) -> None:
    rng = np.random.default_rng(sum(sizes))
    batches = [rng.normal(0, 1, (rows, 2)).astype(np.float32) for rows in sizes]
    whole = np.concatenate(batches)
    outside = (whole < [0, -1]) | (whole > [1, 1])

    assert looked_at(batches) == Values(seen=whole.size, outside=int(outside.sum()))


def test_of_a_large_batch_a_part_spread_over_all_of_it_is_looked_at() -> None:
    batch = np.zeros((100_000, 2), np.float32)
    batch[50_000:, 0] = 9.0

    values = looked_at([batch])

    assert 1000 <= values.seen <= 16_384
    assert values.outside / values.seen == pytest.approx(0.25, abs=0.01)


def test_of_large_batches_that_come_in_turns_each_kind_gets_its_share_of_looks() -> None:
    inside = np.zeros((1024, 2), np.float32)

    values = looked_at([inside, inside + 9] * 1000)

    # On average 4 of the 8 KiB of each.
    assert values.seen / (2000 * inside.size) == pytest.approx(0.5, abs=0.1)
    assert values.outside / values.seen == pytest.approx(0.5, abs=0.1)


def test_a_row_that_is_larger_than_what_is_kept_is_looked_at_whole() -> None:
    row = np.full((1, 20_000), 2.0, np.float32)
    columns = ColumnNames(low=(0.0,) * 20_000, high=(1.0,) * 20_000)

    assert looked_at([row], columns) == Values(seen=20_000, outside=20_000)


def test_columns_keep_their_own_range_however_many_rows_are_looked_at() -> None:
    columns = ColumnNames(low=(0.0, 10.0, 20.0), high=(1.0, 11.0, 21.0))
    row = np.array([0.5, 10.5, 20.5], np.float32)
    batches = [np.tile(row, (rows, 1)) for rows in (1, 7, 64, 2)]
    drift = Drift([spec(width=3)], {"x": columns})

    for batch in (*batches, *(batch + np.float32(1) for batch in batches)):
        drift.look({"x": batch})
        drift.read()

    assert drift.read()["x"] == Values(seen=2 * 74 * 3, outside=74 * 3)


def test_without_a_range_nan_is_looked_for_all_the_same() -> None:
    batch = np.array([[np.nan, 1e30]], np.float32)

    assert looked_at([batch], ColumnNames()) == Values(seen=2, nan=1)


@pytest.mark.parametrize("datatype", ["INT64", "BYTES", "BOOL"])
def test_only_floating_point_numbers_are_looked_at(datatype: str) -> None:
    drift = Drift([spec(datatype)], {"x": RANGE})

    drift.look({"x": np.array([[1, 2]])})

    assert drift.read() == {}


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_are_compared_in_their_own(dtype: type) -> None:
    drift = Drift([spec("FP16" if dtype is np.float16 else "FP64")], {"x": RANGE})

    drift.look({"x": np.array([[2, 0], [0, 0]], dtype)})

    assert drift.read()["x"] == Values(seen=4, outside=1)


def test_nothing_is_lost_among_threads() -> None:
    drift = Drift([spec()], {"x": RANGE})
    row = np.array([[5, 0]], np.float32)

    def send(_: int) -> None:
        for turn in range(2000):
            drift.look({"x": row})
            if turn % 100 == 0:
                drift.read()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))

    assert drift.read()["x"] == Values(seen=2 * 16_000, outside=16_000)


def test_what_waits_to_be_looked_at_does_not_keep_large_batches() -> None:
    drift = Drift([spec()], {"x": RANGE})
    batch = np.zeros((1_000_000, 2), np.float32)

    drift.look({"x": batch})
    drift.look({"x": batch[:10].copy()})

    assert sum(array.nbytes for array in drift._inputs["x"]._new) < 2**17
    assert all(array.base is not batch for array in drift._inputs["x"]._new)
