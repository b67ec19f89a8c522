"""Results as `jaxdyn run` leaves them, made up for the tests of what is shown of them."""

import json
import math
import types

import numpy as np
import xarray as xr

from jaxdyn import papers, results
from jaxdyn.claims import Verdict


def verdict(statement, value, high, holds, expected, reason=""):
    """A verdict on an error that has to lie below a bound."""
    quantity = "largest error"
    return Verdict(statement, quantity, value, -math.inf, high, holds, expected, reason)


VERDICTS = (
    verdict("what holds", 1e-9, 1e-6, True, True),
    verdict("what fails: a < b & c", 3.0, 0.5, False, False),
    verdict("what was published and is wrong", 12.0, 1.0, False, True),
    verdict("what could not be judged", math.nan, 1.0, None, False, "judged only where it rains"),
    verdict("what was published and is right after all", 0.1, 1.0, True, False),
)
PROVENANCE = {
    "size": "paper",
    "default": False,
    "options": {"width": 3},
    "device": "cpu",
    "git": None,
    "started": "2026-01-02T03:04:05+00:00",
    "versions": {"jax": "0.11"},
    "wall_seconds": 4.5,
    "cpu_seconds": 12.3,
    "reused": False,
}


def decay():
    """Runs of exp(-rate t) with noise over seeds, and theory."""
    time = np.linspace(0, 4, 60)
    rates = np.array([0.5, 1.0, 2.0])
    theory = np.exp(-rates[:, None] * time)
    noise = np.random.default_rng(0).normal(size=(4, 3, 60))
    runs = theory * (1 + 0.05 * noise)
    data = {
        "u": (("seed", "rate", "time"), runs),
        "u_theory": (("rate", "time"), theory),
        "v": (("seed", "rate"), runs[..., 9]),
        "v_theory": (("rate",), theory[:, 9]),
    }
    return xr.Dataset(data, {"rate": rates, "time": time})


def write_json(content, path):
    path.write_text(json.dumps(content))


def write(name, folder, **made):
    """Save the first experiment of the paper `name`, whose claims come out in every way."""
    import matplotlib.pyplot as plt

    experiment = papers.load(name).EXPERIMENTS[0].name
    place = folder / name / experiment
    runs = decay()
    results.save({"decay": runs}, place / "results")
    judged = [verdict._asdict() for verdict in VERDICTS]
    write_json(judged, place / "verdicts.json")
    provenance = PROVENANCE | {"paper": name, "experiment": experiment} | made
    write_json(provenance, place / "provenance.json")
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    axes.plot(runs.time, runs.u_theory.T)
    for kind in ("png", "svg"):
        figure.savefig(place / f"figure.{kind}", dpi=160)
    plt.close(figure)
    return place


def explore_module():
    """A stand-in for `jaxdyn.explore`, with one paper."""
    module = types.ModuleType("jaxdyn.explore")

    def names():
        return ["tian2021"]

    def table(name):
        return exploration()

    module.names = names
    module.table = table
    return module


def exploration(points=30, rates=5):
    """A table of exp(-rate t) for two kinds, one of them slower."""
    x = np.linspace(0, 2, points)
    rate = np.linspace(0.5, 2.5, rates)
    slowing = np.array([1.0, 0.5])
    curve = np.exp(-rate[:, None, None] * slowing[:, None] * x)
    default = {"rate": 1.5, "kind": "flow"}
    attributes = {"title": "Decay", "xlabel": "time", "ylabel": "u"}
    attributes |= {"xscale": "linear", "yscale": "log"}
    attributes["default"] = json.dumps(default)
    data = {
        "x": ("point", x),
        "decay": (("rate", "kind", "point"), curve),
        "half": ("point", np.full(points, 0.5)),
    }
    coords = {"rate": rate, "kind": ["flow", "descent"]}
    return xr.Dataset(data, coords, attributes)
