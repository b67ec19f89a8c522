"""Composition of observables."""

from jaxdyn.types import Observe

__all__ = ["combine", "prefixed"]


def combine(*observes: Observe) -> Observe:
    """Observe everything that `observes` do, in one dict.

    Raises ValueError where two observables use the same name.
    """

    def combined(state):
        seen = {}
        for observe in observes:
            new = observe(state)
            if clash := sorted(seen.keys() & new.keys()):
                raise ValueError(
                    f"observes: two of them return {clash}; rename one with prefixed('test_', observe)"
                )
            seen |= new
        return seen

    return combined


def prefixed(prefix: str, observe: Observe) -> Observe:
    """Observe what `observe` does, with `prefix` before each name."""
    return lambda state: {prefix + name: value for name, value in observe(state).items()}
