"""Committees of units that learn online: order parameters, specialisation, fluctuations at finite
size."""

from jaxdyn.theory.online import fluctuations, gaussian_integrals, order_parameters, specialisation
from jaxdyn.theory.online.order_parameters import (
    Student,
    Teacher,
    chain,
    generalisation_error,
    noise_floor,
    overlaps,
    random_start,
    velocity,
)

__all__ = [
    "Student",
    "Teacher",
    "chain",
    "fluctuations",
    "gaussian_integrals",
    "generalisation_error",
    "noise_floor",
    "order_parameters",
    "overlaps",
    "random_start",
    "specialisation",
    "velocity",
]
