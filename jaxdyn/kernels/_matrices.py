"""Tools for all kernel matrices: mirroring one half, and checking that they fit in memory."""

import os

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["check_memory", "memory", "mirrored"]


def mirrored(lower: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return the symmetric matrix that has the lower triangle of `lower`."""
    # A choice between `lower` and its transpose by index would take XLA seconds up to minutes to
    # compile on a CPU.
    return jnp.tril(lower) + jnp.tril(lower, -1).T


def memory() -> int:
    """Return the number of bytes of memory of the default device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(what: str, size: int, remedy: str) -> None:
    """Raise ValueError where `size` bytes exceed the memory of the default device."""
    if size > memory():
        raise ValueError(f"x1, x2: {what} take {size:,} bytes of {memory():,}; pass {remedy}")
