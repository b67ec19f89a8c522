"""The laboratory for the dynamics of learning: theory and simulation of a learning system side by
side.

A learning system is a map or a flow on a pytree; we observe it at chosen times, sweep it, and
compare it with theory.
"""

import importlib
import itertools
import os
import sys
from typing import TYPE_CHECKING


def _quiet_command_line() -> None:
    """Keep XLA's log of errors out of the command line, where a user did not set it: jax reads its
    level once.

    For each program from the compilation cache it says at length that a compiler's hint is no
    feature of the machine.
    """
    if os.path.basename(sys.argv[0]) == "jaxdyn" or ("-m", "jaxdyn") in itertools.pairwise(
        sys.orig_argv
    ):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


_quiet_command_line()


def _reserve_threads() -> None:
    """Size XLA's thread pool before its CPU backend starts: at two threads, batched SVDs in two
    runs deadlock."""
    from jax._src import xla_bridge

    started = getattr(xla_bridge, "backends_are_initialized", lambda: False)
    if not started():
        os.environ.setdefault("NPROC", str(max(8, os.cpu_count() or 1)))


_reserve_threads()

from jaxdyn.claims import Claim, Domain, Verdict, verify  # noqa: E402
from jaxdyn.compare import compare, crossing_time, power_law, predictions  # noqa: E402
from jaxdyn.dynamics import (  # noqa: E402
    RK4,
    at,
    descent,
    flow,
    integrate,
    iterate,
    log_times,
    segmented,
    step_key,
    train,
)
from jaxdyn.sweep import run_key, sweep  # noqa: E402
from jaxdyn.types import Model, State, Trajectory, nearest  # noqa: E402

if TYPE_CHECKING:
    from jaxdyn import (
        analysis,
        animations,
        claims,
        explore,
        kernels,
        losses,
        models,
        observables,
        optimizers,
        papers,
        plot,
        report,
        results,
        rules,
        tasks,
        theory,
    )

__version__ = "0.2.0"

_SUBMODULES = (
    "results",
    "claims",
    "plot",
    "papers",
    "explore",
    "animations",
    "report",
    "models",
    "tasks",
    "losses",
    "rules",
    "optimizers",
    "observables",
    "analysis",
    "kernels",
    "theory",
)

__all__ = [
    "RK4",
    "Claim",
    "Domain",
    "Model",
    "State",
    "Trajectory",
    "Verdict",
    "analysis",
    "animations",
    "at",
    "claims",
    "compare",
    "crossing_time",
    "descent",
    "explore",
    "flow",
    "integrate",
    "iterate",
    "kernels",
    "log_times",
    "losses",
    "models",
    "observables",
    "optimizers",
    "papers",
    "plot",
    "power_law",
    "predictions",
    "report",
    "results",
    "rules",
    "run_key",
    "segmented",
    "step_key",
    "sweep",
    "tasks",
    "theory",
    "train",
    "verify",
]


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"jaxdyn.{name}")
    raise AttributeError(f"module 'jaxdyn' has no attribute {name!r}; {nearest(name, __all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
