"""Two configurations of every paper beside its own: what is claimed holds for them too.

Each is what to change of the quick size.  They are as small as still shows the effect.
"""

CONFIGURATIONS = {
    "braun2022": (
        {"strengths": (2.0, 1.0), "inputs": 2, "outputs": 4, "imbalances": (1.0,), "draws": 1, "lazy": 30.0},
        {"strengths": (2.5, 1.5), "inputs": 5, "outputs": 2, "imbalances": (0.3, 3.0), "scale": 0.5, "learned": 1.0},
    ),
    "saxe2022": (
        {"hidden": 4, "scale": 3e-3, "seeds": 2, "contexts": (2, 6), "u0": 1e-2},
        {"hidden": 16, "seeds": 2, "contexts": (3, 5), "strengths": (3.0, 1.5, 1.0), "u0": 1e-4},
    ),
    "saxe2013": (
        {"aligned_strengths": (2.0, 1.5), "u0": 0.02, "depths": (2, 4), "levels": 2, "gains": (0.95, 1.05)},
        {"strengths": (5.0, 3.0, 2.0), "scale": 3e-4, "second": (0.5, -0.2), "u0": 0.1, "product_depth": 600},
    ),
}
