"""The paper of the how-to, put into a copy of the tree: it is found everywhere, with nothing else
touched."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAME = "verhulst1838"
COPIED = ("jaxdyn", "tests", "docs", "pyproject.toml")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree with one file more."""
    copy = tmp_path_factory.mktemp("tree")
    left_out = shutil.ignore_patterns("__pycache__", "_build")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, copy / name)
    page = (ROOT / "docs" / "howto" / "paper.md").read_text()
    (paper, *_) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (copy / "jaxdyn" / "papers" / "linear" / f"{NAME}.py").write_text(paper)
    return copy


def python(tree, *arguments):
    """Run Python in the copy; return what it prints."""
    command = [sys.executable, *arguments]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed(tree):
    listed = python(tree, "-m", "jaxdyn", "list")
    assert f"linear      {NAME}" in listed
    assert "growth\n" in python(tree, "-m", "jaxdyn", "list", NAME)


def test_it_is_run_and_shown_on_the_site(tree):
    shown = python(tree, "-m", "jaxdyn", "run", NAME)
    assert f"2 of 2 claims as expected; numbers in results/{NAME}/growth" in shown
    python(tree, "-m", "jaxdyn", "report")
    page = (tree / "site" / f"{NAME}.html").read_text()
    assert "every mode follows the sigmoid" in page


def test_it_is_tested(tree):
    options = ("-p", "no:cacheprovider", "-k", NAME)
    told = python(tree, "-m", "pytest", "-q", *options, "tests/papers")
    passed = int(re.search(r"(\d+) passed", told)[1])
    assert passed >= 8  # the contract, the claims, the figure, and two other configurations


def test_it_is_in_the_pages(tree):
    pytest.importorskip("docutils", reason="Sphinx builds the pages: pip install .[docs]")
    program = "import pathlib, house; house.write_catalogue(pathlib.Path('papers'))"
    python(tree, "-c", f"import sys; sys.path.insert(0, 'docs'); {program}")
    assert f"linear.md#{NAME}" in (tree / "papers" / "index.md").read_text()
    assert f"$ jaxdyn run {NAME}" in (tree / "papers" / "linear.md").read_text()
