"""Two configurations of every paper beside its own: what is claimed holds for them too.

Each is what to change of the quick size.  They are as small as still shows the effect.
"""

CONFIGURATIONS = {
    "advani2017": (
        {"inputs": 80, "alphas": (0.3, 1.5), "snr": 2.0, "inr": 0.2, "last": 30.0, "snrs": (0.3, 3.0)},
        {"inputs": 100, "alphas": (1.0, 4.0), "inr": 3.0, "feature_samples": 50, "widths": (10, 30, 50, 80, 150)},
    ),
    "pezeshki2021": (
        {"samples": (160,), "fast": (50,), "kappas": (30.0,), "noises": (0.1,), "seeds": 16},
        {"samples": (90, 75), "fast": (40, 45), "kappas": (60.0, 200.0), "noises": (0.0, 0.0), "inputs": 60},
    ),
    "saxe2013": (
        {"aligned_strengths": (2.0, 1.5), "u0": 0.02, "depths": (2, 4), "levels": 2, "gains": (0.95, 1.05)},
        {"strengths": (5.0, 3.0, 2.0), "scale": 3e-4, "second": (0.5, -0.2), "u0": 0.1, "product_depth": 600},
    ),
}
