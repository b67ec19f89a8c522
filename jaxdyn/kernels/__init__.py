"""Kernels of wide networks: the NNGP and NTK of an architecture, what they predict, and those of finite networks."""

from jaxdyn.kernels import empirical, finite_width, predict

__all__ = ["empirical", "finite_width", "predict"]
