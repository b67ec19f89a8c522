"""Averages over time of what a run has recorded."""

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["box_average"]


def box_average(records: Float[Array, "times ..."], window: int) -> Float[Array, "times ..."]:
    """Return at each record the mean of the `window` records around it; NaN too near the ends.

    Of the window (window - 1)//2 records lie after the record in question.

    >>> box_average(jnp.array([1.0, 2.0, 6.0, 4.0, 2.0]), 3).tolist()
    [nan, 3.0, 4.0, 4.0, nan]

    Raises ValueError for a window of less than 1 record, or more than there are.
    """
    if not 1 <= window <= len(records):
        raise ValueError(
            f"window: {window} of {len(records)} records; pass at least 1 and at most all of them"
        )
    # Sums of differences from the first record keep their digits where records hardly change.
    first = records[:1]
    sums = jnp.cumsum(jnp.concatenate([0 * first, records - first]), 0)
    means = first + (sums[window:] - sums[:-window]) / window
    before = window // 2
    ends = [(0, 0)] * records.ndim
    ends[0] = (before, window - 1 - before)
    return jnp.pad(means, ends, constant_values=jnp.nan)
