"""The house: who imports whom, what an import costs, how long a file may be; and faults of others
to guard against."""

import ast
import collections
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from jaxdyn import papers

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "jaxdyn"

# From the ground up; a floor imports lower ones only, and the rooms of one floor do not know each
# other.
FLOORS = [
    {"types"},
    {"_numbers", "_checks", "_progress", "_folder"},
    {"dynamics"},
    {"models", "tasks", "losses", "rules", "optimizers", "observables", "kernels", "theory"},
    {"analysis", "plot"},
    {"claims", "compare"},
    {"sweep"},
    {"results"},
    {"papers"},
    {"explore", "animations"},
    {"report"},
    {"__main__"},
]
# The few arrows between rooms of theory: (from, to).
ARROWS = {("saddles", "linear")}
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def files():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path):
    """The rooms that a file imports, also inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = (
                [f"{node.module}.{a.name}" for a in node.names]
                if node.module == "jaxdyn"
                else [node.module]
            )
        else:
            continue
        for module in modules:
            if module.split(".")[0] == "jaxdyn" and "." in module:
                yield module.split(".")[1]


VERBS = {  # what `from jaxdyn import name` reaches through the package's front door
    "sweep": "sweep",
    "run_key": "sweep",
    **dict.fromkeys(
        ["compare", "crossing_time", "power_law", "predictions"],
        "compare",
    ),
    **dict.fromkeys(["Claim", "Domain", "Verdict", "verify"], "claims"),
    **dict.fromkeys(["Model", "State", "Trajectory"], "types"),
    **dict.fromkeys(
        [
            "RK4",
            "at",
            "descent",
            "flow",
            "integrate",
            "iterate",
            "log_times",
            "segmented",
            "step_key",
            "train",
        ],
        "dynamics",
    ),
}


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    for name in imported_rooms(path):
        target = VERBS.get(name, name)
        assert target in FLOOR, f"{path.name} imports {name}"
        inside = target == room(path)
        assert inside or FLOOR[target] < FLOOR[room(path)], (
            f"{room(path)} imports {target}, which is not below it"
        )


def test_arrows_between_rooms_of_theory_are_the_named_ones():
    found = set()
    for path in (PACKAGE / "theory").rglob("*.py"):
        inside = path.relative_to(PACKAGE / "theory").parts[0]
        text = path.read_text()
        rooms = set(re.findall(r"^from jaxdyn\.theory\.(\w+)", text, re.MULTILINE))
        if path.parent.name != "theory":
            found |= {(inside, room) for room in rooms - {inside}}
    assert found == ARROWS


def test_theory_papers_and_tests_are_ordered_by_the_same_subjects():
    for floor in (PACKAGE / "theory", PACKAGE / "papers", ROOT / "tests" / "theory"):
        rooms = {path.name for path in floor.iterdir() if path.is_dir()} - {"__pycache__"}
        assert rooms <= set(papers.SUBJECTS)


@pytest.mark.parametrize(
    "path", [*files(), PACKAGE / "__init__.py"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and "overload" not in map(
            ast.unparse, node.decorator_list
        ):
            private = node.name.startswith("_") or node.col_offset or room(path) == "papers"
            docstring = ast.get_docstring(node)
            lines = node.end_lineno - node.lineno - len((docstring or "").splitlines())
            assert lines < 80, f"{node.name} is too long"
            assert docstring or private, f"{node.name} has no docstring"


# Public names that stand in several rooms, each with the one concept that it has in all of them.
SHARED = {
    "descent": "gradient descent in discrete steps, or what theory predicts for it",
    "erf": "the error function as the nonlinearity of a unit",
    "flow": "gradient flow, or what theory predicts for it",
    "gradient_descent": "the method, as theory of its room describes it",
    "gram": "a matrix of inner products",
    "max_learning_rate": "the learning rate above which descent diverges",
    "mode_strength": "how much of a mode is learned by a time",
    "modes": "the modes of a learning problem, found or drawn",
    "noise_floor": "the error that the noise of learning leaves at a learning rate",
    "ntk": "the neural tangent kernel of a finite network",
    "optimal_ridge": "the ridge of the smallest error",
    "relu": "the rectifier as the nonlinearity of a unit",
    "ridge": "the errors of ridge regression",
    "time_of_strength": "when a mode has a strength",
}


def test_a_public_name_that_stands_twice_means_the_same():
    meanings = collections.defaultdict(set)
    for path in files():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if room(path) in ("papers", "explore", "animations", "report", "__main__"):
            continue
        name = ".".join(("jaxdyn", *parts)).removesuffix(".__init__")
        if any(part.startswith("_") for part in name.split(".")):
            continue
        module = importlib.import_module(name)
        for public in module.__all__:
            value = getattr(module, public)
            if inspect.isfunction(value) or inspect.isclass(value):
                meanings[public].add(f"{value.__module__}.{value.__qualname__}")
    twice = {public for public, objects in meanings.items() if len(objects) > 1}
    assert twice == set(SHARED), "settle on one name, or say in SHARED what both of them mean"


def packs_what_is_unrelated(statement):
    """Whether one statement assigns several expressions that could be statements of their own."""
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Tuple)
        and isinstance(statement.value, ast.Tuple)
        and any(isinstance(value, ast.Call | ast.Lambda) for value in statement.value.elts)
    )


@pytest.mark.parametrize("folder", ["jaxdyn", "tests", "benchmarks"])
def test_one_statement_assigns_one_idea(folder):
    packed = [
        f"{path}:{node.lineno}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if packs_what_is_unrelated(node)
    ]
    assert not packed, "give each value a line of its own"


def test_importing_is_cheap():
    program = """
import sys, jax, optax
before = set(sys.modules)
import jaxdyn
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    new = done.stdout.split()
    heavy = {
        "xarray",
        "pandas",
        "zarr",
        "diffrax",
        "equinox",
        "flax",
        "orbax",
        "matplotlib",
        "scipy.optimize",
        "tqdm",
    }
    assert not heavy & set(new)
    assert len(new) < 60, new


def test_importing_reserves_threads_in_time():
    program = """
import jax, os
os.environ.pop("NPROC", None)
if {late}: jax.devices()
import jaxdyn
print(os.environ.get("NPROC"))
"""

    def run(late):
        return subprocess.run(
            [sys.executable, "-c", program.format(late=late)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout.strip()

    assert int(run(False)) >= 8
    assert run(True) == "None"


def test_two_runs_of_batched_svds_do_not_deadlock():
    program = """
import jaxdyn as jd, jax, jax.numpy as jnp
def experiment(key, *, a):
    return {"s": jnp.linalg.svd(a * jax.random.normal(key, (8, 16, 16)), compute_uv=False)}
for _ in range(3):
    jd.sweep(experiment, {"a": [1.0, 2.0]}, seeds=64, chunk=16)
print("done")
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=ROOT,
        env=environment,
    )
    assert done.stdout == "done\n"


@pytest.mark.parametrize("inner", [3, 5, 7])
def test_row_reductions_after_a_shared_product_are_right(inner, x64):
    # jaxlib 0.10.2 computes wrong numbers here (jax issue 39103); the metadata excludes it.
    assert jaxlib.__version__ != "0.10.2"
    rows = np.random.default_rng(0).standard_normal((40_000, inner))
    matrix = np.random.default_rng(1).standard_normal((inner, inner))
    as_users_compile = {"xla_backend_optimization_level": 3}
    if jaxlib.__version__ < "0.11":
        as_users_compile["xla_cpu_use_fusion_emitters"] = True
    sums = jax.jit(lambda x, m: jnp.sum((x @ m) ** 2, axis=1), compiler_options=as_users_compile)
    computed = sums(rows, matrix)
    expected = np.sum((rows @ matrix) ** 2, axis=1)
    np.testing.assert_allclose(computed, expected, rtol=1e-12)


def test_nothing_turns_float64_on_globally():
    for path in files():
        assert not re.search(r"config\.update\(.jax_enable_x64", path.read_text()), path


def test_the_pins_satisfy_the_metadata():
    import tomllib

    from packaging.requirements import Requirement

    pins = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and line[0] != "#"
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for python in ("3.11", "3.13"):
        chosen = {
            p.name: p for p in pins if not p.marker or p.marker.evaluate({"python_version": python})
        }
        for requirement in map(Requirement, project["dependencies"]):
            version = str(chosen[requirement.name].specifier).removeprefix("==")
            assert requirement.specifier.contains(version), (
                f"{requirement} excludes the pin {version}"
            )
