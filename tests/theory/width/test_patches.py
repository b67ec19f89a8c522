"""Kernels on trees of patches and regression with them: against the layers, quadrature,
multi-precision and solves."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn import kernels
from jaxdyn.theory.regression import equivalents, learning_curves, spectrum
from jaxdyn.theory.width import patches


def cnn(children):
    """Patches of two entries and the tree over them."""
    layers = []
    for size in (2, *children):
        join = kernels.conv(8, (size,), 2**0.5, strides=(size,), padding="VALID")
        layers += [join, kernels.relu()]
    return kernels.serial(*layers, kernels.flatten(), kernels.dense(1))


def test_the_kernel_is_that_of_the_layers(x64):
    children = (2,)
    angle = 2 * np.pi * np.random.default_rng(0).random((4, 4))
    on_circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    entries = np.sqrt(2) * on_circle.reshape(4, -1, 1)
    network = cnn(children)
    expected = kernels.gram(network, jnp.asarray(entries), get=("nngp", "ntk"))
    cosines = np.cos(angle[:, None] - angle[None])
    for get, matrix in expected.items():
        # The slope at equal patches, by angles, loses half of the digits.
        tolerance = 1e-14 if get == "nngp" else 1e-7
        computed = patches.kernel(cosines, children, get=get)
        np.testing.assert_allclose(computed, matrix, atol=tolerance)
    low = patches.kernel(np.float32(cosines), children)
    assert low.dtype == jnp.float32


def test_eigenvalues_are_integrals_and_sum_to_the_kernel(x64):
    def function(t):
        return patches.kernel(t, (2,))

    spectrum, counts = patches.torus_spectrum(function, (32, 16))
    first = np.arange(32) / 32
    second = np.arange(16) / 16
    turns = np.stack(np.meshgrid(first, second, indexing="ij"), -1)
    values = function(np.cos(2 * np.pi * turns))
    full = np.fft.fft2(values).real / 512
    expected = full[:17, :9]
    np.testing.assert_allclose(spectrum, expected, atol=1e-16)
    assert jnp.sum(spectrum * counts) == pytest.approx(3, abs=1e-13)

    # One layer on S^2, where the patches do not mix.
    spectrum, counts = patches.sphere_spectrum(patches.kernel, 4, 2, nodes=16)
    theta, w = np.polynomial.legendre.leggauss(400)
    t = np.cos(np.pi / 2 * (theta + 1))
    w = w * np.pi / 4 * np.sin(np.pi / 2 * (theta + 1))
    ntk = np.sqrt(1 - t * t) / np.pi + 2 * t * (1 - np.arccos(t) / np.pi)
    polynomials = np.polynomial.legendre.legvander(t, 4)
    exact = (ntk * w) @ polynomials
    expected = exact * [1, 0.5, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(spectrum[:, 0], expected, atol=1e-12)
    computed = spectrum[1:, 1:]
    np.testing.assert_allclose(computed, 0, atol=1e-16)
    assert counts[2, 1] == 15


def test_sectors_are_all_there(x64):
    grids = {1: 8, 2: 8, 4: 8}

    def mean(t):
        return jnp.mean(t, -1)

    sectors = patches.sector_spectrum(mean, 4, grids)
    assert sum(times.sum() for _, times in sectors.values()) == 8**4
    # A cosine is two waves of weight 1/2, and a mean mixes no patches.
    computed = sectors[1, 1][0]
    expected = [0.125, 0, 0, 0]
    np.testing.assert_allclose(computed, expected, atol=1e-15)
    mixed = [values.max() for (active, _), (values, _) in sectors.items() if active != 1]
    assert max(mixed) < 1e-15
    fewer = patches.sector_spectrum(mean, 4, grids, used=2)
    assert fewer.keys() == sectors.keys()
    assert sum(times.sum() for _, times in fewer.values()) == 8**2


@pytest.mark.parametrize("get", ["ntk", "nngp"])
def test_spectra_approach_their_laws_with_the_next_order(get, x64):
    def kernel(t):
        return patches.kernel(t, (2,), get=get)

    spectrum, _ = patches.torus_spectrum(kernel, (512, 512))
    averaged, _ = patches.torus_spectrum(kernel, (512, None))
    expected = spectrum[:17, 0]
    np.testing.assert_allclose(averaged[:17], expected, rtol=2e-3)
    for k in (15, 16):
        frequencies = np.array([[k, k], [k, 2 * k]])
        joint = patches.joint_law(frequencies, 2, get=get)
        computed = spectrum[k, np.array([k, 2 * k])] / joint
        np.testing.assert_allclose(computed, 1, atol=1 / k)
        for other in (0, 1):
            leading, corner = patches.axis_law(k, other, get=get)
            assert spectrum[k, other] / (leading + corner) == pytest.approx(1, abs=2 / k)


def test_constants_are_the_published_ones(x64):
    unit = np.array([1.0, 0.0])
    ntk = 2**0.5 / (2 * np.pi**2)
    assert patches.joint_law(unit, 2) == pytest.approx(ntk, rel=1e-14)
    nngp = 3 / (4 * 2**0.5 * np.pi**2)
    assert patches.joint_law(unit, 2, get="nngp") == pytest.approx(nngp, rel=1e-14)
    assert patches.learning_exponent(0.5, 1.5, 1, 2) == 0.625
    # A smooth student saturates; a global target has 2 nu / D whatever the student.
    assert patches.learning_exponent(9.0, 0.5, 1, 2) == 3.0
    assert patches.learning_exponent(0.5, 1.5, 4, 4) == 0.25


def test_learning_curve_is_ridge_regression_in_high_dimension(x64):
    sizes = jnp.array([5.0, 50.0, 400.0])
    eigenvalues = np.arange(1, 101.0) ** -2
    target = 1 / np.arange(1.0, 101) ** 3
    multiplicities = np.full(100, 2.0)
    modes = (eigenvalues, multiplicities, target)
    curve = learning_curves.learning_curve(sizes, *modes, 0.25, tail=0.25, unlearned=0.04)
    population = equivalents.population(eigenvalues, multiplicities, target / eigenvalues)
    for n, error in zip(sizes, curve.error, strict=True):
        ridge = spectrum.ridge(0.5 / n, population, n, 0.2)
        expected = ridge.excess + 0.04
        assert error == pytest.approx(float(expected), rel=1e-12)
    assert jnp.all(jnp.diff(curve.error) < 0)
    assert jnp.all(curve.freedom < 1)


def test_averaged_error_is_the_mean_over_teachers_and_nears_the_curve(x64):
    spectra = np.arange(1.0, 401) ** -np.array([[2.0], [3.0]])
    z = np.random.default_rng(1).standard_normal((900, 400))
    student, teacher = [(z * spectrum) @ z.T for spectrum in spectra]
    train = np.s_[:200, :200]
    test = np.s_[:200, 200:]
    of_student = [student[train], student[test]]
    of_teacher = [teacher[train], teacher[test], np.diagonal(teacher)[200:]]
    arguments = map(jnp.asarray, of_student + of_teacher)
    sizes = 50, 200
    errors = learning_curves.averaged_error(*arguments, sizes, 1e-3)
    for n, error in zip(sizes, errors, strict=True):
        ridge = student[:n, :n] + 1e-3 * np.eye(n)
        smoother = np.linalg.solve(ridge, student[:n, 200:]).T
        predicted = smoother @ teacher[:n, :n] @ smoother.T
        shared = smoother @ teacher[:n, 200:]
        covariance = predicted - 2 * shared + teacher[200:, 200:]
        expected = np.trace(covariance) / 700
        assert error == pytest.approx(expected, rel=1e-10)
    # Gaussian features; one design of n points spreads by about n^(-1/2).
    curve = learning_curves.learning_curve(np.array(sizes), spectra[0], 1.0, spectra[1], 1e-3)
    np.testing.assert_allclose(errors / curve.error, 1, atol=2 / 50**0.5)


def test_what_does_not_fit_is_refused():
    for call, name in [
        (lambda: patches.kernel(jnp.ones(4), (3,)), "children"),
        (lambda: patches.torus_spectrum(patches.kernel, (7,)), "sizes"),
        (lambda: patches.joint_law(np.ones(2), 2, 3), "dim"),
        (lambda: learning_curves.learning_curve(0, [1.0], [1.0], [1.0]), "samples"),
        (lambda: learning_curves.learning_curve(1, [1.0], [1.0], [1.0], tail=-1.0), "tail"),
        (lambda: learning_curves.averaged_error(*[jnp.eye(2)] * 4, jnp.ones(2), (3,)), "sizes"),
    ]:
        with pytest.raises(ValueError, match=name):
            call()
