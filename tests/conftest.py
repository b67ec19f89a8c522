"""One thread a process, no rank promotion, cheap compilation and a cache of it that all processes
share."""

import os
from importlib.metadata import version
from pathlib import Path

# Tests mostly compile: without the fusion emitters, at optimisation level 1, that costs half.  XLA
# stops at a flag that it does not know, as later ones do not know that of the emitters.
EMITTERS = "--xla_cpu_use_fusion_emitters=false" if version("jaxlib") < "0.11" else ""
CHEAP = f"--xla_backend_optimization_level=1 {EMITTERS}"
os.environ.setdefault("XLA_FLAGS", f"--xla_cpu_multi_thread_eigen=false {CHEAP}")
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax")
)
os.environ.setdefault("MPLBACKEND", "agg")

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def x64():
    """Compute in float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=[False, True], ids=["float32", "float64"])
def precision(request):
    """Run a test in both precisions; the value is the default float dtype."""
    with jax.enable_x64(request.param):
        yield jax.numpy.result_type(float)
