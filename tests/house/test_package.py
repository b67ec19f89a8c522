"""What is shipped: the wheel holds the whole package and nothing else, and works without the
repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jaxdyn
from jaxdyn import papers

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        check=True,
        cwd=ROOT,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    information = {name for name in names if ".dist-info/" in name}
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "jaxdyn").rglob("*") if path.is_file()}
    assert names - information == {name for name in ours if "__pycache__" not in name}
    assert "jaxdyn/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in information)


def test_it_works_without_the_repository(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-m", "jaxdyn", "list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == papers.names()


def test_versions_agree():
    version = jaxdyn.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    tag = os.environ.get("GITHUB_REF", "").removeprefix("refs/tags/")
    if tag.startswith("v"):
        assert tag == f"v{version}"
        assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
