"""What kernel matrices of all kinds share: one half mirrored, and whether they fit in memory."""

import os

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["check_memory", "memory", "mirrored"]


def mirrored(lower: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return the symmetric matrix with this lower triangle."""
    # Not a choice between `lower` and its transpose by index: XLA compiles that for seconds up to
    # minutes on CPU.
    return jnp.tril(lower) + jnp.tril(lower, -1).T


def memory() -> int:
    """Return the bytes of the default device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(what: str, size: int, remedy: str) -> None:
    """Raise ValueError where `size` bytes are more than there are."""
    if size > memory():
        raise ValueError(f"x1, x2: {what} take {size:,} bytes of {memory():,}; pass {remedy}")
