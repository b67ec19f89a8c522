"""Theory: pure functions from numbers and arrays to what a learning system will do.

All of these functions work under jit and vmap unless their docstrings say otherwise, and can be
swept.  Each subject has a package of its own.
"""

from jaxdyn.theory import descent, linear, online, plasticity, regression, saddles, width

__all__ = "descent", "linear", "online", "plasticity", "regression", "saddles", "width"
