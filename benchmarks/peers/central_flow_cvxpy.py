"""CVXPY in the contest of central flows, in a virtual environment of its own (numpy, cvxpy, cvxopt,
clarabel).

    python central_flow_cvxpy.py SOLVER PROBLEMS.npz

Minimises <A, X> + <X, B[X]>/2 over semidefinite X for each a (n, k, k), b (n, k, k, k, k)
of the file once for each line on stdin, answers with the CPU seconds in JSON, and leaves
the first solutions beside the problems, in SOLVER.npy.  SOLVER is CVXOPT or CLARABEL.
"""

import json
import sys
import time
from pathlib import Path

import cvxpy as cp
import numpy as np

TOLERANCES = {"CVXOPT": {"abstol": 1e-11}, "CLARABEL": {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11}}


def problem(k):
    """Return the problem with its parameters, so that CVXPY translates it only once."""
    a = cp.Parameter((k, k), symmetric=True)
    root = cp.Parameter((k * k, k * k))
    x = cp.Variable((k, k), PSD=True)
    curvature = cp.sum_squares(root @ cp.vec(x, order="C")) / 2
    return cp.Problem(cp.Minimize(curvature + cp.sum(cp.multiply(a, x)))), a, root, x


def solutions(problems, a, b, solver):
    task, slope, root, x = problems
    found = []
    for one, response in zip(a, b, strict=True):
        # As the reference does: nothing to solve where A >= 0, and B in units of its own size.
        if np.linalg.eigvalsh(one)[0] >= 0:
            found.append(np.zeros_like(one))
            continue
        size = np.sqrt(np.mean(response**2))
        values, vectors = np.linalg.eigh(response.reshape(one.size, one.size) / size)
        slope.value = one
        root.value = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
        task.solve(solver=solver, **TOLERANCES[solver])
        found.append(x.value / size)
    return np.stack(found)


def main():
    solver = sys.argv[1]
    path = Path(sys.argv[2])
    given = np.load(path)
    problems = problem(given["a"].shape[1])
    first = True
    solutions(problems, given["a"][:1], given["b"][:1], solver)
    for _ in sys.stdin:
        begin = time.process_time()
        found = solutions(problems, given["a"], given["b"], solver)
        print(
            json.dumps({"seconds": time.process_time() - begin, "problems": len(found)}), flush=True
        )
        if first:
            np.save(path.parent / f"{solver}.npy", found)
        first = False


if __name__ == "__main__":
    main()
