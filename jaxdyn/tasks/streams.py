"""Streams `(key of the step, number of the step) -> batch`.

Data are pytrees of arrays with the examples along the first axis.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, UInt

from jaxdyn.types import Batch, Key, Stream

__all__ = ["epochs", "full_batch", "minibatch", "online"]

ROUNDS = 20  # with 8, orders of 5 examples are visibly not uniform


def full_batch(data: Batch) -> Stream:
    """Return the stream of the same batch at each step."""
    data = jax.tree.map(jnp.asarray, data)
    return lambda key, step: data


def online(sample: Callable[[Key], Batch]) -> Stream:
    """Return the stream of a fresh batch `sample(key)` at each step."""
    return lambda key, step: sample(_given(key))


def minibatch(data: Batch, size: int) -> Stream:
    """Return the stream of `size` examples at each step, drawn independently with replacement."""
    n = _length(data)
    # Drawn as int32 in any precision, so that float64 repeats the same run.
    return lambda key, step: _rows(data, jax.random.randint(_given(key), (size,), 0, n, jnp.int32))


def epochs(key: Key, data: Batch, size: int) -> Stream:
    """Return the stream of `size` examples at each step without replacement, in epochs of n
    examples with an order of their own.

    A batch may straddle two epochs.  The order of an epoch is a stateless bijection of the
    positions in the epoch, so that the batch of any step is found without those of the steps
    before.  The bijection is a Feistel network of 20 rounds on Z_a x Z_b, n <= ab < n + a; from
    places >= n it walks on along its cycle (Black, Rogaway 2002).  The stream has a key of its own,
    since an order outlives a step.

    Raises ValueError for a size below 1, and where the least common multiple of n and `size` is
    beyond 32 bits.
    """
    n = _length(data)
    # After `period` steps positions repeat and `size // gcd` epochs are over; no product exceeds 32
    # bits.
    divisor = math.gcd(n, size)
    period = n // divisor
    if period * size >= 2**32 or size < 1:
        raise ValueError(
            f"size: batches of {size} from {n} examples; pass a size >= 1 with lcm(n, size) < 2**32"
        )
    round_keys = jax.random.bits(key, (ROUNDS,), jnp.uint32)

    def stream(_, step: Int[Array, ""]) -> Batch:
        step = jnp.asarray(step).astype(jnp.uint32)
        place = step % period * size + jnp.arange(size, dtype=jnp.uint32)
        epoch = step // period * (size // divisor) + place // n
        return _rows(data, _shuffled(round_keys, epoch, place % n, n))

    return stream


def _shuffled(
    round_keys: UInt[Array, "rounds"], epoch: UInt[Array, "..."], place: UInt[Array, "..."], n: int
) -> Int[Array, "..."]:
    """Return the place to which the permutation of 0 ... n - 1 of the `epoch` sends `place`."""
    # With an even `a` odd permutations are possible too.
    a = 2 * (math.isqrt(n - 1) // 2 + 1)
    b = -(-n // a)
    salts = [_mixed(epoch ^ k) for k in round_keys]

    def permuted(index):
        left = index // b
        right = index % b
        for i, salt in enumerate(salts):
            if i % 2:
                left = (left + _mixed(right + salt) % a) % a
            else:
                right = (right + _mixed(left + salt) % b) % b
        return left * b + right

    def walk(index):
        return jnp.where(index < n, index, permuted(index))

    return lax.while_loop(lambda index: jnp.any(index >= n), walk, permuted(place)).astype(
        jnp.int32
    )


def _mixed(x):
    """Hash 32 bits: the finaliser of MurmurHash3 (Appleby)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _given(key):
    if key is None:
        raise TypeError(
            "key: is None, but this stream draws at random; pass key=jax.random.key(0) to train"
        )
    return key


def _length(data):
    lengths = {jnp.shape(a)[:1] for a in jax.tree.leaves(data)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise ValueError(
            f"data: arrays of lengths {sorted(lengths)}; pass arrays of the same n >= 1 examples"
        )
    return lengths.pop()[0]


def _rows(data, index):
    return jax.tree.map(lambda a: jnp.asarray(a)[index], data)
