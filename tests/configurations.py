"""Two configurations of every paper beside its own: what is claimed holds for them too.

Each is what to change of the quick size.  They are as small as still shows the effect.
"""

CONFIGURATIONS = {
    "littwin2024": (
        {
            "feature_covariances": (1.0, 1.3),
            "feature_influences": (0.6, 0.95),
            "depths": (1, 2),
            "pair_depths": (1, 2, 3),
        },
        {
            "start": 0.01,
            "noise": (1.1, 0.6),
            "signal": (0.9, 2.0),
            "pair_depths": (1, 3, 4),
            "seeds": 2,
            "sampled_depth": 1,
        },
    ),
    "saxe2013": (
        {"aligned_strengths": (2.0, 1.5), "u0": 0.02, "depths": (2, 4), "levels": 2, "gains": (0.95, 1.05)},
        {"strengths": (5.0, 3.0, 2.0), "scale": 3e-4, "second": (0.5, -0.2), "u0": 0.1, "product_depth": 600},
    ),
}
