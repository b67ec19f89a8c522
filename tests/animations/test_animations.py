"""Animations: what is written is a small GIF that repeats, and every course keeps to its theory."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageSequence

from jaxdyn import animations, papers
from jaxdyn.animations import Animation, canvas, cohen2024, growing, save, zhang2025


def test_each_animates_a_paper_and_lies_in_the_gallery():
    animated = {"saxe2013", "zhang2025", "jacot2018", "cohen2024"}
    assert animated <= set(animations.names()) <= set(papers.names())
    with pytest.raises(ValueError, match="no animation 'zhang2052'; did you mean 'zhang2025'"):
        animations.load("zhang2052")


@pytest.mark.parametrize("name", animations.names())
def test_the_gallery_has_it_small_and_in_time(name):
    root = Path(__file__).parents[2]
    path = root / "docs" / "gallery" / f"{name}.gif"
    assert 20_000 < path.stat().st_size < 1_000_000
    with Image.open(path) as picture:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(picture)]
        assert picture.size[0] == 640
        assert picture.info["loop"] == 0
    assert 60 <= len(durations) <= 100
    assert 10 <= 1000 / durations[1] <= 15


def test_a_gif_shows_the_last_frame_first_and_then_what_moves(tmp_path):
    figure = canvas(2.0, 1.0)
    axes = figure.subplots()
    axes.set(xlim=(0, 4), ylim=(0, 1))
    x = np.arange(5)
    y = np.linspace(0, 1, 5)
    draw = growing(axes, x, y, color="#D55E00", linewidth=4)
    folder = tmp_path / "new"
    save(Animation(figure, draw, 5), folder / "line.gif")
    assert [path.name for path in folder.iterdir()] == ["line.gif"]

    def pixels(frame):
        return np.asarray(frame.convert("RGB")).astype(int)

    def count_red(frame):
        redness = frame[..., 0] - frame[..., 2]
        return int((redness > 100).sum())

    with Image.open(folder / "line.gif") as picture:
        frames = [pixels(frame) for frame in ImageSequence.Iterator(picture)]
    red = [count_red(frame) for frame in frames]
    assert len(frames) == 5
    assert red[0] > red[4] > red[3] > red[2] > red[1]
    assert frames[0][0, 0].tolist() == [255, 255, 255]


def test_descent_keeps_to_its_central_flow_on_average(x64):
    descent, central, _ = cohen2024.courses()
    late = slice(200, 400)
    edge = np.asarray(descent["edge"])[late]
    assert abs(edge.mean() - 1) < 0.05
    central_edge = np.asarray(central["edge"])[late]
    assert abs(central_edge - 1).max() < 1e-2
    ratio = np.nanmean(descent["mean"][late]) / np.mean(central["mean"][late])
    # The oscillation is not small, so that the second order of the theory is not all.
    assert abs(ratio - 1) < 0.25


def test_neurons_drop_when_theory_says_and_to_its_plateaus(x64):
    k_linear, k_rectified = jax.random.split(jax.random.key(1))
    net, vectors = zhang2025.linear(k_linear)
    times, loss, _ = zhang2025.course(net, vectors)
    levels = np.asarray(net.levels)
    drops = np.asarray(net.drops)
    halfway = (levels[:-1] + levels[1:]) / 2
    crossings = [times[np.argmax(loss < level)] for level in halfway]
    simulated = np.array(crossings)
    assert abs(simulated / drops - 1).max() < 0.01
    net, vectors = zhang2025.rectified(k_rectified)
    _, loss, _ = zhang2025.course(net, vectors)
    start, plateau, _ = np.asarray(net.levels)
    # Flat on a tenth of the way or more, to what escapes meanwhile.
    assert (abs(loss / plateau - 1) < 0.02).sum() > len(loss) / 10
    assert loss[0] / start - 1 < 1e-3
    assert loss[-1] < plateau / 10
