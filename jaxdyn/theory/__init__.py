"""Theory: pure functions of numbers and arrays to what a learning system will do; jit, vmap and
sweep them.

Each subject has a room of its own.
"""

from jaxdyn.theory import descent, linear, online, plasticity, regression, saddles, width

__all__ = "descent", "linear", "online", "plasticity", "regression", "saddles", "width"
