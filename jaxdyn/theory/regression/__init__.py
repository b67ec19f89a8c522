"""Regression in high dimension: any spectrum, isotropic inputs, given data, learning curves, wrong
labels."""

from jaxdyn.theory.regression import (
    equivalents,
    given_data,
    isotropic,
    learning_curves,
    memorisation,
    spectrum,
)
from jaxdyn.theory.regression.equivalents import Spectrum, population
from jaxdyn.theory.regression.spectrum import Errors

__all__ = [
    "Errors",
    "Spectrum",
    "equivalents",
    "given_data",
    "isotropic",
    "learning_curves",
    "memorisation",
    "population",
    "spectrum",
]
