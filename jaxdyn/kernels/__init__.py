"""Kernels of wide networks: the NNGP kernel and the NTK of an architecture, what they predict for
training, and the empirical kernels of finite networks."""

from jaxdyn.kernels import early_stopping, empirical, finite_width, predict
from jaxdyn.kernels._compose import identity, parallel, repeat, residual, serial
from jaxdyn.kernels._gram import gram
from jaxdyn.kernels._kernel import Kernel, Layer
from jaxdyn.kernels._linear import attention, conv, dense, local
from jaxdyn.kernels._nonlinear import (
    abrelu,
    abs_,
    cos,
    elementwise,
    erf,
    exp,
    gaussian,
    gelu,
    hermite,
    leaky_relu,
    monomial,
    polynomial,
    rbf,
    rectified_monomial,
    relu,
    sign,
    sin,
)
from jaxdyn.kernels._spatial import (
    avg_pool,
    dropout,
    flatten,
    global_avg_pool,
    layer_norm,
    sum_pool,
)

__all__ = [
    "Kernel",
    "Layer",
    "abrelu",
    "abs_",
    "attention",
    "avg_pool",
    "conv",
    "cos",
    "dense",
    "dropout",
    "early_stopping",
    "elementwise",
    "empirical",
    "erf",
    "exp",
    "finite_width",
    "flatten",
    "gaussian",
    "gelu",
    "global_avg_pool",
    "gram",
    "hermite",
    "identity",
    "layer_norm",
    "leaky_relu",
    "local",
    "monomial",
    "parallel",
    "polynomial",
    "predict",
    "rbf",
    "rectified_monomial",
    "relu",
    "repeat",
    "residual",
    "serial",
    "sign",
    "sin",
    "sum_pool",
]
