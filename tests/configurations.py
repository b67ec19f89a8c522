"""Two configurations of every paper beside its own: what is claimed holds for them too.

Each is what to change of the quick size.  They are as small as still shows the effect.
"""

CONFIGURATIONS = {
    "advani2017": (
        {"inputs": 80, "alphas": (0.3, 1.5), "snr": 2.0, "inr": 0.2, "last": 30.0, "snrs": (0.3, 3.0)},
        {"inputs": 100, "alphas": (1.0, 4.0), "inr": 3.0, "feature_samples": 50, "widths": (10, 30, 50, 80, 150)},
    ),
    "braun2022": (
        {"strengths": (2.0, 1.0), "inputs": 2, "outputs": 4, "imbalances": (1.0,), "draws": 1, "lazy": 30.0},
        {"strengths": (2.5, 1.5), "inputs": 5, "outputs": 2, "imbalances": (0.3, 3.0), "scale": 0.5, "learned": 1.0},
    ),
    "garcia2025": (
        {"outputs": 2, "inputs": 4, "sigma": 0.5, "draws": 5000, "runs": 200, "last": 1200},
        {"outputs": 5, "inputs": 2, "fraction": 0.5, "draws": 5000, "runs": 200},
    ),
    "jacot2018": (
        {"initial_widths": (5, 20), "depths": (1, 3), "deep_width": 10, "widths": (24, 48, 96), "seeds": 24},
        {"initial_seeds": 400, "seeds": 24, "examples": 16, "noise": 0.4, "rate": 0.7, "last": 150},
    ),
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
    "cagnetta2023": (
        {"sizes": (40, 80, 160, 320), "tests": 100, "seeds": 8, "late": (1000, 4000)},
        {"degrees": 48, "sizes": (50, 100, 200, 400), "tests": 200, "late": (3000, 6000)},
    ),
    "cohen2024": (
        {"inputs": 4},
        {"examples": 48, "width": 6, "window": 40},
    ),
    "giapitzakis2025": (
        {"bits": 5, "width": 512, "seeds": 200, "steps": (1, 20), "learning_rate": 10.0, "risk": 0.1, "draws": 1000},
        {"bits": 7, "width": 256, "seeds": 100, "steps": (30,), "members": (2, 10), "draws": 2000},
    ),
    "liu2020": (
        {"samples": 300, "ratio": 1.2, "flipped": 0.1, "sigmas": (0.4,), "noisy_sigma": 0.2, "decays": (0.8,)},
        {"ratio": 0.8, "flipped": 0.3, "sigmas": (0.2, 0.6), "seeds": 6, "strengths": (0.0, 0.5, 5.0)},
    ),
    "mahi2025": (
        {"examples": 40, "inputs": 24, "classes": 4, "widths": (12, 6, 4), "duration": 12.0},
        {"widths": (12, 8, 6, 4), "scale": 0.1, "scales": (0.2, 0.02), "rates": (0.04, 0.02, 0.01)},
    ),
    "ninou2025": (
        {"units": 200, "ratios": (0.2,), "turned": (0.4, 0.6), "hidden": 0.3, "seeds": 2, "gaps": (1e-2, 1e-4, 1e-6)},
        {"units": 200, "fractions": (0.2, 0.6), "ratios": (0.6,), "inputs": 24, "expansions": (8, 2), "seeds": 2},
    ),
    "parimi2025": (
        {"kappas": (9.0, 49.0), "dims": 12, "ridge_kappa": 150.0, "features": 10, "curvature": 7.0, "span": 12.0},
        {"kappas": (64.0,), "examples": 30, "learning_rates": (3e-3, 3e-4, 3e-5), "masses": (0.02, 0.005, 0.001)},
    ),
    "pezeshki2021": (
        {"samples": (160,), "fast": (50,), "kappas": (30.0,), "noises": (0.1,), "seeds": 16},
        {"samples": (90, 75), "fast": (40, 45), "kappas": (60.0, 200.0), "noises": (0.0, 0.0), "inputs": 60},
    ),
    "rosenfeld2023": (
        {"outlier": 30.0, "rates": (0.075, 0.1), "slow_variances": (1.0, 0.2, 0.04), "slow_rate": 0.055, "draws": 2},
        {"feature": 8.0, "width": 24, "net_rate": 0.4, "slow_variances": (0.5, 0.1, 0.03, 0.02), "slow_rate": 0.09},
    ),
    "saad1995": (
        {
            "learning_rate": 0.7,
            "noise": 0.2,
            "large": 2000,
            "escape_sizes": (50, 150),
            "escapes": 64,
            "shares": (1.05,),
        },
        {
            "learning_rate": 1.3,
            "noise": 0.05,
            "sizes": (50, 150),
            "runs": 1024,
            "scale": 0.1,
            "escape_sizes": (50, 100),
        },
    ),
    "saxe2013": (
        {"aligned_strengths": (2.0, 1.5), "u0": 0.02, "depths": (2, 4), "levels": 2, "gains": (0.95, 1.05)},
        {"strengths": (5.0, 3.0, 2.0), "scale": 3e-4, "second": (0.5, -0.2), "u0": 0.1, "product_depth": 600},
    ),
    "saxe2022": (
        {"hidden": 4, "scale": 3e-3, "seeds": 2, "contexts": (2, 6), "u0": 1e-2},
        {"hidden": 16, "seeds": 2, "contexts": (3, 5), "strengths": (3.0, 1.5, 1.0), "u0": 1e-4},
    ),
    "tanaka2021": (
        {"inputs": 5, "classes": 3, "examples": 20, "momentum": 0.5, "decay": 0.3, "duration": 5.0, "dimension": 20},
        {
            "hidden": 3,
            "learning_rates": (0.05, 0.025),
            "sphere_decay": 0.1,
            "sphere_rates": (0.02, 0.01),
            "sphere_duration": 4.0,
            "turning_rates": (0.3,),
            "turning_decays": (0.05,),
            "averaged": 1000,
        },
    ),
    "tian2021": (
        {"width": 6, "augmentation": 0.5, "decays": (0.04, 0.12), "target_rates": (1.0,), "duration": 300.0},
        {"width": 8, "augmentation": 0.1, "decays": (0.08, 0.18), "boosts": (0.0, 0.5), "scale": 0.25, "seeds": 2},
    ),
    "wu2023": (
        {
            "examples": 6,
            "batches": (1, 2),
            "runs": 500,
            "inputs": 8,
            "width": 4,
            "drawn": 500,
            "steps": 8000,
            "seeds": 2,
        },
        {"coordinates": 16, "seen": 6, "rates": (0.03, 0.09), "full_rates": (0.2, 0.4), "steps": 8000, "runs": 500},
    ),
    "zhang2025": (
        {
            "strengths": (3.0, 1.2),
            "width": 10,
            "random": 6,
            "kernels": (2.0, 0.8),
            "curvature": 1.0,
            "units": 5,
            "teacher": (2.0, 1.0),
            "patches": 2.0,
            "variances": (0.9, 0.5),
            "heads": 4,
        },
        {
            "strengths": (5.0, 2.5, 1.2),
            "random": 6,
            "kernels": (4.0, 1.5),
            "curvature": 3.0,
            "units": 12,
            "teacher": (-2.0, 0.5),
            "kernel_teacher": (1.0, -0.3),
            "patches": 6.0,
            "variances": (1.0, 0.5, 0.3),
        },
    ),
}
