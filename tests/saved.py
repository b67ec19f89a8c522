"""Results as `jaxdyn run` leaves them, made up for the tests of what is shown of them."""

import json

import numpy as np
import xarray as xr

from jaxdyn import results
from jaxdyn.compare import Verdict

VERDICTS = (
    Verdict("what holds", 1e-9, 1e-6, True, True),
    Verdict("what fails: a < b & c", 3.0, 0.5, False, False),
    Verdict("what was published and is wrong", 12.0, 1.0, False, True),
    Verdict("what could not be judged", float("nan"), 1.0, None, False),
    Verdict("what was published and is right after all", 0.1, 1.0, True, False),
)


def write(name, folder, **made):
    """Save a run of the paper `name` at paper size, whose claims come out in every way, beside its
    figure."""
    import matplotlib.pyplot as plt

    place = folder / name
    time = np.linspace(0, 4, 60)
    rates = np.array([0.5, 1.0, 2.0])
    theory = np.exp(-rates[:, None] * time)
    runs = theory * (1 + 0.05 * np.random.default_rng(0).normal(size=(4, 3, 60)))
    data = {"u": (("seed", "rate", "time"), runs), "u_theory": (("rate", "time"), theory)}
    data |= {"v": (("seed", "rate"), runs[..., 9]), "v_theory": (("rate",), theory[:, 9])}
    results.save({"decay": xr.Dataset(data, {"rate": rates, "time": time})}, place / "results")
    (place / "verdicts.json").write_text(json.dumps([verdict._asdict() for verdict in VERDICTS]))
    said = {
        "paper": name,
        "size": "paper",
        "default": False,
        "options": {"width": 3},
        "device": "cpu",
        "git": None,
    }
    said |= {
        "started": "2026-01-02T03:04:05+00:00",
        "versions": {"jax": "0.11"},
        "wall_seconds": 4.5,
    }
    (place / "provenance.json").write_text(
        json.dumps(said | {"cpu_seconds": 12.3, "reused": False} | made)
    )
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    axes.plot(time, theory.T)
    for kind in ("png", "svg"):
        figure.savefig(place / f"figure.{kind}", dpi=160)
    plt.close(figure)


def exploration(points=30, rates=5):
    """A table of exp(-rate t) for two kinds, one of them slower."""
    x = np.linspace(0, 2, points)
    rate = np.linspace(0.5, 2.5, rates)
    kind = np.array([1.0, 0.5])
    decay = np.exp(-rate[:, None, None] * kind[:, None] * x)
    return xr.Dataset(
        {
            "x": ("point", x),
            "decay": (("rate", "kind", "point"), decay),
            "half": ("point", np.full(points, 0.5)),
        },
        {"rate": rate, "kind": ["flow", "descent"]},
        {"title": "Decay", "xlabel": "time", "ylabel": "u", "xscale": "linear", "yscale": "log"}
        | {"default": json.dumps({"rate": 1.5, "kind": "flow"})},
    )
