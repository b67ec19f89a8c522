"""Deep CNNs of infinite width whose windows do not overlap: kernels on a tree of patches, and their
spectra.

Inputs are p patches, each uniform on a circle or a sphere and independent of the others (Cagnetta,
Favero, Wyart, 2023), so that a kernel is a function of the p cosines between patches.  Convolutions
join the patches level by level.  Singularities at equal and opposite patches determine the decay of
the spectrum, with constants that are known exactly.  Units are rectifiers.  The tangent kernel
("ntk") has smoothness nu = 1/2; the kernel of random features ("nngp", only the last layer learns)
has nu = 3/2.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

__all__ = [
    "axis_law",
    "joint_law",
    "kernel",
    "learning_exponent",
    "sector_spectrum",
    "sphere_spectrum",
    "torus_spectrum",
]

Get = Literal["ntk", "nngp"]
OnCosines = Callable[[Float[Array, "*grid p"]], Float[Array, "*grid"]]

SMOOTHNESS = {"ntk": 0.5, "nngp": 1.5}


def kernel(
    cosines: Real[ArrayLike, "*pairs p"], children: Sequence[int] = (), *, get: Get = "ntk"
) -> Array:
    """Return the kernel of a CNN with 1 + len(children) hidden layers from the cosines t between p
    patches.

    The first layer has r = k1(t) and n = k1(t) + t k0(t) at each patch.  A level with s children
    averages s neighbours of r to u and of n to v, and goes on with r = k1(u), n = k1(u) + v k0(u).
    The read-out is the mean over the remaining patches: of n for the NTK, which is 2 +
    len(children) at equal inputs, and of r for the NNGP kernel, which is 1 at equal inputs.  The
    functions are k0(t) = 1 - acos(t) / pi and k1(t) = (sqrt(1 - t^2) + t (pi - acos t)) / pi (Cho,
    Saul, 2009).

    The result equals `kernels.gram` of convolutions with strides equal to their windows, weights of
    w_std = sqrt(2), and a dense layer of w_std = 1 after `flatten`, for patches of squared norm
    equal to their number of entries.  For overlapping windows of one layer, pass the cosines of the
    windows.

    >>> kernel(jnp.ones(4), (2, 2)).item(), kernel(jnp.ones(4), (2, 2), get="nngp").item()
    (4.0, 1.0)

    Raises ValueError where the children do not divide the patches of their level, and for an
    unknown kernel.
    """
    _known(get)
    t = jnp.asarray(cosines, jnp.result_type(float, cosines))
    patches = t.shape[-1] if t.ndim else 0
    positive = all(s > 0 for s in children)
    if not (patches and positive and patches % math.prod(children) == 0):
        raise ValueError(
            f"children: {tuple(children)} do not divide the patches of cosines of shape {t.shape}"
        )
    return _kernel(t, tuple(children), get)


def torus_spectrum(
    function: OnCosines, sizes: Sequence[int | None], *, average: int = 16
) -> tuple[Float[Array, "*waves"], Float[Array, "*waves"]]:
    """Return the eigenvalues and multiplicities of a kernel of cosines between patches on circles.

    The eigenvalues are Fourier coefficients at wave numbers 0 to M/2 for each patch, on a grid of M
    = `sizes` angles (an even number).  A size of None averages over a patch (wave number 0) with
    `average` Gauss-Legendre nodes.  Folding adds the eigenvalue at M - k to that at k, so that all
    eigenvalues sum to the kernel at equal patches.  Rounding errors are absolute, 1e-17 of the
    kernel in float64.

    Raises ValueError for sizes that are odd or below 2.
    """
    if not all(size is None or (size >= 2 and size % 2 == 0) for size in sizes):
        raise ValueError(
            f"sizes: {tuple(sizes)}; pass an even number of angles for each patch, or None"
        )
    nodes, _ = np.polynomial.legendre.leggauss(average)
    angles = []
    counts = []
    for size in sizes:
        if size is None:
            angles.append(np.pi / 2 * (nodes + 1))
            continue
        half = size // 2
        waves = np.arange(half + 1)
        angles.append(2 * np.pi / size * waves)
        # Waves 0 and M/2 are their own mirror images.
        counts.append(np.where(waves % half == 0, 1.0, 2.0))
    cosines = _grid([np.cos(angle) for angle in angles])
    values = _waves(function(cosines), tuple(sizes), average)
    return values, _outer(counts, values.dtype)


def sector_spectrum(
    function: OnCosines,
    patches: int,
    grids: dict[int, int],
    *,
    used: int | None = None,
    average: int = 10,
) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Return the eigenvalues and multiplicities by sector of a tree whose first level joins patches
    two by two.

    A sector is a set of active patches, which are those with wave numbers above 0.  Sectors are
    classed by (active patches, pairs that hold them); sectors of one class are equivalent in a tree
    of up to four patches.  One representative of each class is computed, for a active patches on
    grids of `grids[a]` angles, with an average over the other patches; three active patches share
    the grid of four.  Negative rounding errors are set to zero.  `function` takes the cosines
    between the first `used` patches only, by default all of them; classes with other patches alone
    have multiplicity 0.  Blocks of cosines are jit-compiled once.  This function cannot be traced.
    """
    used = patches if used is None else used
    compiled = _in_blocks(function, used)

    @functools.cache
    def spectrum_along(varied):
        """Return the spectrum on a grid of the `varied` patches, averaged over all others."""
        sizes = [grids[len(varied)] if patch in varied else None for patch in range(used)]
        return torus_spectrum(compiled, sizes, average=average)

    sectors = {}
    for name, members in _classes(patches).items():
        count = sum(max(member, default=0) < used for member in members)
        if not count:
            sectors[name] = (np.zeros(1), np.zeros(1))
            continue
        active = members[0]
        # Three and four active patches share the grid of all.
        varied = tuple(range(used)) if len(active) > 2 else active or (0,)
        values, times = spectrum_along(varied)
        within = tuple(slice(1, None) if patch in active else slice(0, 1) for patch in varied)
        own_values = np.asarray(values)[within].ravel()
        own_times = np.asarray(times)[within].ravel()
        sectors[name] = (np.maximum(own_values, 0), count * own_times)
    return sectors


def _classes(patches):
    """Return the sets of active patches, by their number and the number of pairs that hold them."""
    classes = {}
    for number in range(patches + 1):
        for active in itertools.combinations(range(patches), number):
            pairs = {patch // 2 for patch in active}
            classes.setdefault((number, len(pairs)), []).append(active)
    return classes


def _in_blocks(function, used):
    """Return `function` as one that is compiled once, for blocks of 2^15 sets of cosines."""
    compiled = jax.jit(function)
    size = 2**15

    def in_blocks(cosines):
        flat = np.asarray(cosines).reshape(-1, used)
        padded = np.pad(flat, [(0, -len(flat) % size), (0, 0)])
        blocks = padded.reshape(-1, size, used)
        values = np.concatenate([np.asarray(compiled(block)) for block in blocks])
        return jnp.asarray(values[: len(flat)].reshape(cosines.shape[:-1]))

    return in_blocks


def sphere_spectrum(
    function: OnCosines, degrees: int, patches: int, *, nodes: int = 32
) -> tuple[Float[Array, "*degrees"], Float[Array, "*degrees"]]:
    """Return the eigenvalues and multiplicities of a kernel of cosines between patches on spheres
    S^2.

        lambda(l_1 .. l_p) = 2^-p int K(t_1 .. t_p) prod_i P_l_i(t_i) dt_i

    for l up to `degrees`, with multiplicity prod_i (2 l_i + 1).  The integral uses Gauss-Legendre
    panels of `nodes` angles, which shrink to 1e-3 towards equal and opposite patches, where the
    kernel is singular.
    """
    x, w = np.polynomial.legendre.leggauss(nodes)
    edges = np.concatenate([[0], np.geomspace(1e-3, np.pi / 2, 10)])
    edges = np.concatenate([edges, np.pi - edges[-2::-1]])
    half = np.diff(edges)[:, None] / 2
    angles = (half * (x + 1) + edges[:-1, None]).ravel()
    weights = (half * w).ravel()
    cosines = np.cos(angles)
    measure = weights * np.sin(angles) / 2
    basis = np.polynomial.legendre.legvander(cosines, degrees) * measure[:, None]
    values = function(_grid([cosines] * patches))
    for _ in range(patches):
        values = jnp.tensordot(values, jnp.asarray(basis, values.dtype), (0, 0))
    return values, _outer([2.0 * np.arange(degrees + 1) + 1] * patches, values.dtype)


def joint_law(
    waves: Real[ArrayLike, "*k p"],
    layers: int,
    dim: int = 1,
    *,
    get: Get = "ntk",
    scale: float = 1.0,
) -> Array:
    """Return the eigenvalues C |k|^(-2 nu - p dim) at large wave numbers k of all p patches that
    one unit joins.

    At equal inputs the kernel of `layers` hidden layers, the last of which joins the patches, has
    the cone -A r with A = layers / (pi sqrt(p)) (NTK) or A r^3 with A = 1 / (3 pi p^(3/2)) (NNGP).
    C = `scale` A F / volume^p, with F the Fourier transform of r^(2 nu) in p dim dimensions.
    Patches lie on circles for dim 1 and on spheres for dim 2, where k is l + 1/2.  The next
    homogeneous term is smaller by a factor of order 1/k.  Near the axes, where one wave number
    stays small, see `axis_law`.
    """
    _known(get)
    waves = jnp.asarray(waves, jnp.result_type(float, waves))
    patches = waves.shape[-1]
    power = 2 * SMOOTHNESS[get]
    if get == "ntk":
        size = layers / (math.pi * patches**0.5)
    else:
        size = 1 / (3 * math.pi * patches**1.5)
    constant = size * _transform(patches * dim, power) / _volume(dim) ** patches
    wave = jnp.linalg.norm(waves, axis=-1)
    return scale * constant * wave ** (-power - patches * dim)


def axis_law(
    wave: Real[ArrayLike, "*k"], other: int = 0, dim: int = 1, *, get: Get = "ntk"
) -> tuple[Float[Array, "*k"], Float[Array, "*k"]]:
    """Return the eigenvalues of two patches under two hidden layers near an axis: the leading and
    the next term.

    For a wave number (degree) k -> infinity of one patch and a fixed one, `other`, of the other
    patch the leading term is

        a [A_0 + (-1)^k A_pi] F |k|^(-2 nu - dim) / volume,  a = 1/(2 pi) (NTK) or 1/(6 pi) (NNGP).

    A_0 and A_pi are the coefficients at `other` of k0((1 + k1(t)) / 2) and of k0(k1(t) / 2), by
    which the other patch scales the singularities at equal and at opposite patches; even and odd k
    therefore differ.  The next term is that of the cone where both patches are equal (`joint_law`),
    and is smaller by k^-dim.  The law of a single patch, with a smaller constant, thus holds at
    fixed `other` > 0 too.
    """
    _known(get)
    power = 2 * SMOOTHNESS[get]

    def coefficient(f):
        if dim == 1:
            values, _ = torus_spectrum(f, (2048,))
        else:
            values, _ = sphere_spectrum(f, max(other, 1), 1, nodes=48)
        return values[other]

    def random(t):
        step, _ = _arccosine(t[..., 0])
        return step

    def at_equal(t):
        _, slope = _arccosine((1 + random(t)) / 2)
        return slope

    def at_opposite(t):
        _, slope = _arccosine(random(t) / 2)
        return slope

    equal = coefficient(at_equal)
    opposite = coefficient(at_opposite)
    shift = (dim - 1) / 2
    k = jnp.asarray(wave, equal.dtype)
    size = 1 if get == "ntk" else 1 / 3
    slope = size / (2 * math.pi) * _transform(dim, power) / _volume(dim)
    alternating = equal + (-1) ** k * opposite
    leading = slope * alternating * (k + shift) ** (-power - dim)
    fixed = jnp.full_like(k, other + shift * (other > 0))
    both = jnp.stack([k + shift, fixed], -1)
    return leading, joint_law(both, 2, dim, get=get)


def learning_exponent(target: float, student: float, local: int, total: int) -> float:
    """Return beta, test error ~ n^-beta, of ridgeless regression on a target that depends on part
    of the input.

        beta = min(2 nu_T / (2 nu_S + d), 2) (2 nu_S + D) / D

    is the source exponent times the capacity exponent, for smoothnesses `target` nu_T and `student`
    nu_S and a meta-patch of d = `local` dimensions out of D = `total`.  For d = D beta is 2 nu_T /
    D. For D -> infinity beta stays above 2 nu_T / (2 nu_S + d), so learning local targets does not
    suffer from the dimension of the input.

    >>> learning_exponent(0.5, 0.5, 1, 2), learning_exponent(0.5, 0.5, 2, 2)
    (0.75, 0.5)
    """
    return min(2 * target / (2 * student + local), 2.0) * (2 * student + total) / total


@functools.partial(jax.jit, static_argnames=("children", "get"))
def _kernel(t, children, get):
    step, slope = _arccosine(t)
    random = step
    tangent = step + t * slope
    for s in children:
        u = jnp.mean(random.reshape(*random.shape[:-1], -1, s), -1)
        v = jnp.mean(tangent.reshape(*tangent.shape[:-1], -1, s), -1)
        step, slope = _arccosine(u)
        random = step
        tangent = step + v * slope
    return jnp.mean(tangent if get == "ntk" else random, -1)


@functools.partial(jax.jit, static_argnames=("sizes", "average"))
def _waves(values, sizes, average):
    for axis, size in reversed(list(enumerate(sizes))):
        if size is None:
            weights = np.polynomial.legendre.leggauss(average)[1] / 2
            values = jnp.tensordot(values, jnp.asarray(weights, values.dtype), (axis, 0))
        else:
            waves = jnp.fft.hfft(values, size, axis) / size
            values = jax.lax.slice_in_dim(waves, 0, size // 2 + 1, axis=axis)
    return values


@jax.jit
def _arccosine(t):
    """Return the arc-cosine kernels of a rectifier and of its derivative, for unit variances."""
    t = jnp.clip(t, -1, 1)
    angle = jnp.arccos(t)
    step = (jnp.sqrt(1 - t * t) + t * (jnp.pi - angle)) / jnp.pi
    return step, 1 - angle / jnp.pi


def _grid(axes):
    return jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), -1), float)


def _outer(counts, dtype):
    return jnp.asarray(math.prod(np.ix_(*counts)) if counts else 1.0, dtype)


def _transform(dim, power):
    """Return the modulus of the Fourier transform of |x|^power at |k| = 1."""
    gamma = math.gamma((dim + power) / 2) / abs(math.gamma(-power / 2))
    return 2 ** (dim + power) * math.pi ** (dim / 2) * gamma


def _volume(dim):
    if dim not in (1, 2):
        raise ValueError(f"dim: {dim}; pass 1 for patches on circles or 2 for patches on spheres")
    return 2 * math.pi * dim


def _known(get):
    if get not in SMOOTHNESS:
        raise ValueError(f"get: {get!r} is not known; pass 'ntk' or 'nngp'")
