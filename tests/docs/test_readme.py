"""The README's snippets, run as written by a newcomer."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from jaxdyn import papers, results

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SNIPPETS = dict(re.findall(r"<!-- snippet: (\w+) -->\n```python\n(.*?)```", README, re.DOTALL))
TESTS_OWN = ("JAX_NUMPY_RANK_PROMOTION", "XLA_FLAGS")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in TESTS_OWN} | {
    "PYTHONPATH": str(ROOT)
}


def launch(name, folder):
    folder.mkdir(exist_ok=True)
    script = folder / f"{name}.py"
    script.write_text(SNIPPETS[name])
    with (folder / "out").open("w") as out:
        return subprocess.Popen([sys.executable, script], cwd=folder, env=ENVIRONMENT, stdout=out)


def test_there_are_three_snippets():
    assert set(SNIPPETS) == {"run", "sweep", "theory"}


def test_pictures_exist_and_are_small():
    shown = re.findall(r'src="([^"]+)"', README)
    assert len(shown) >= 5
    assert not [picture for picture in shown if not (ROOT / picture).exists()]
    pictures = list((ROOT / "docs").rglob("*.png")) + list((ROOT / "docs").rglob("*.gif"))
    assert sum(picture.stat().st_size for picture in pictures) < 10_000_000


def test_pictures_of_papers_lead_to_their_places_in_the_gallery():
    links = re.findall(r'/papers/(\w+)\.html#(\w+)"><img src="docs/gallery/(\w+?)-', README)
    assert links
    for subject, name, pictured in links:
        assert name == pictured
        assert papers.subject(name) == subject


@pytest.mark.parametrize("name", ["run", "theory"])
def test_snippets_run_as_written(name, tmp_path):
    assert launch(name, tmp_path).wait(timeout=300) == 0
    shown = (tmp_path / "out").read_text()
    if name == "run":
        rows = [line.split() for line in shown.splitlines()]
        # Descent at learning rate 0.05 lags behind the flow to first order in it.
        assert all(abs(float(row[3]) / float(row[5]) - 1) < 0.1 for row in rows)
    else:
        numbers = np.array(re.findall(r"-?\d+\.\d*", shown), float).reshape(2, 4, 5)
        _, mean, spread, simulated_mean, simulated_spread = numbers[1].T
        # Twenty networks of width 512: standard errors of the mean and of the spread, and 10% for
        # the finite width.
        assert (abs(simulated_mean - mean) < 4.5 * spread / 20**0.5).all()
        assert (abs(simulated_spread / spread - 1) < 4.5 / 38**0.5 + 0.1).all()


@pytest.mark.slow
def test_the_sweep_is_killed_half_way_and_resumed(tmp_path):
    victim = launch("sweep", tmp_path / "killed")
    blocks = tmp_path / "killed" / "results" / "first-sweep" / "blocks"
    deadline = time.monotonic() + 200
    while (
        len(list(blocks.glob("*.json"))) < 8
        and victim.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert 8 <= len(list(blocks.glob("*.json"))) < 20
    for folder in ("killed", "uncut"):
        assert launch("sweep", tmp_path / folder).wait(timeout=300) == 0
    resumed, uncut = (
        results.open(tmp_path / f / "results" / "first-sweep") for f in ("killed", "uncut")
    )
    xr.testing.assert_equal(resumed, uncut)
    assert resumed.sizes["seed"] * resumed.sizes["learning_rate"] * resumed.sizes["scale"] == 1000
    assert "of 1000 runs; learning_rate: " in (tmp_path / "uncut" / "out").read_text()
