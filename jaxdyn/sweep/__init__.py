"""Sweeps: one experiment run many times, on a grid of numbers and seeds."""

from jaxdyn.sweep._program import run_key
from jaxdyn.sweep._sweep import sweep

__all__ = ["run_key", "sweep"]
