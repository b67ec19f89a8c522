"""Stores and saved results: resumed, extended, refused, lazy; nothing half-written, nothing
lost."""

import functools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jaxdyn as jd
from jaxdyn import results
from jaxdyn.sweep import _store

ROOT = Path(__file__).parent.parent


def noisy(key, *, rate=1.0, depth=1, offset=0.0):
    noise = jax.random.normal(key, (3,))
    return {"x": rate * depth * noise + offset}


def swept(store, rates=(0.1, 0.2, 0.3), seeds=4, **options):
    axes = {"rate": list(rates)}
    return jd.sweep(noisy, axes, seeds=seeds, chunk=2, store=store, **options)


def stamps(store):
    """When each block was written."""
    blocks = (store / "blocks").glob("*.json")
    return {block.name: block.stat().st_mtime_ns for block in blocks}


def record(store):
    return json.loads((store / "jaxdyn.json").read_text())


def test_a_store_holds_what_memory_would(tmp_path):
    stored = swept(tmp_path / "s")
    plain = swept(None)
    xr.testing.assert_equal(stored, plain)
    computed = results.open(tmp_path / "s")
    xr.testing.assert_equal(computed, plain)
    assert not list(tmp_path.glob("s/**/*.part"))


def test_a_store_opens_lazily(tmp_path):
    swept(tmp_path / "s")
    assert not results.open(tmp_path / "s").x.variable._in_memory
    assert results.open(tmp_path / "s").x.chunks is None


def test_a_finished_store_computes_nothing(tmp_path):
    store = tmp_path / "s"
    swept(store)
    before = stamps(store)
    swept(store)
    assert stamps(store) == before
    assert len(record(store)["attempts"]) == 2


def test_more_values_and_seeds_extend_a_store_without_recomputing(tmp_path):
    store = tmp_path / "s"
    swept(store, rates=(0.1, 0.2), seeds=2)
    before = stamps(store)
    rates = [0.05, 0.1, 0.2]
    seeds = [0, 1, 7]
    more = swept(store, rates=rates, seeds=seeds)
    assert before.items() <= stamps(store).items()
    np.testing.assert_array_equal(more.rate, rates)
    np.testing.assert_array_equal(more.seed, seeds)
    expected = swept(None, rates=rates, seeds=seeds)
    xr.testing.assert_equal(more, expected)
    computed = swept(store, rates=(0.2,), seeds=[7])
    expected = swept(None, rates=(0.2,), seeds=[7])
    xr.testing.assert_equal(computed, expected)


def test_new_static_cells_extend_a_store(tmp_path):
    store = tmp_path / "s"
    swept(store, static={"depth": [2]})
    before = stamps(store)
    both = swept(store, static={"depth": [3, 2]})
    assert before.items() <= stamps(store).items()
    expected = swept(None, static={"depth": [3, 2]})
    xr.testing.assert_equal(both, expected)


def test_a_store_killed_while_it_was_made_or_extended_goes_on(tmp_path):
    store = tmp_path / "s"
    swept(store, seeds=2)
    before = (store / "jaxdyn.json").read_text()
    swept(store, seeds=3)
    (store / "jaxdyn.json").write_text(before)
    expected = swept(None, seeds=2)
    xr.testing.assert_equal(results.open(store), expected)
    computed = swept(store, seeds=3)
    expected = swept(None, seeds=3)
    xr.testing.assert_equal(computed, expected)
    for part in ("data", "blocks"):
        shutil.rmtree(store / part)
    computed = swept(store, seeds=3)
    expected = swept(None, seeds=3)
    xr.testing.assert_equal(computed, expected)


def test_a_block_over_the_edge_is_completed(tmp_path):
    store = tmp_path / "s"
    swept(store, rates=(0.1, 0.2, 0.3), seeds=1)
    rates = (0.1, 0.2, 0.3, 0.4)
    computed = swept(store, rates=rates, seeds=1)
    expected = swept(None, rates=rates, seeds=1)
    xr.testing.assert_equal(computed, expected)


def test_an_existing_store_keeps_its_block(tmp_path):
    store = tmp_path / "s"
    swept(store)
    again = jd.sweep(noisy, {"rate": [0.1, 0.2, 0.3]}, seeds=9, store=store)
    fingerprint = json.loads(again.attrs["fingerprint"])
    assert fingerprint["block"] == [1, 2]
    assert len(stamps(store)) == 18


SLOW = """
import sys, time
import numpy as np, jax, jax.numpy as jnp
import jaxdyn as jd

def experiment(key, *, rate):
    step = lambda k, s: s._replace(params=s.params - rate * (s.params + 0.1 * jax.random.normal(k, (3,))))
    start = jax.random.normal(key, (3,))
    return jd.iterate(step, start, times=np.array([0, 20_000]), observe=lambda s: {"w": s.params}, key=key)

done = jd.sweep(experiment, {"rate": np.linspace(0.1, 0.9, 6)}, seeds=4, chunk=2, store=sys.argv[1] or None)
np.save(sys.argv[2], done.w.values)
"""


def launch(store, out):
    command = [sys.executable, "-c", SLOW, str(store), str(out)]
    return subprocess.Popen(command, cwd=ROOT)


def finish(process):
    assert process.wait(timeout=300) == 0


def test_a_sweep_killed_with_9_resumes_to_the_same_numbers(tmp_path):
    store = tmp_path / "s"
    victim = launch(store, tmp_path / "no.npy")
    deadline = time.monotonic() + 120

    def is_waiting():
        blocks = list(store.glob("blocks/*.json"))
        return len(blocks) < 2 and time.monotonic() < deadline and victim.poll() is None

    while is_waiting():
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    survived = stamps(store)
    assert 2 <= len(survived) < 12
    finish(launch(store, tmp_path / "resumed.npy"))
    assert survived.items() <= stamps(store).items()
    finish(launch("", tmp_path / "uncut.npy"))
    computed = np.load(tmp_path / "resumed.npy")
    expected = np.load(tmp_path / "uncut.npy")
    np.testing.assert_array_equal(computed, expected)
    unfinished = [a["wall_seconds"] is None for a in record(store)["attempts"]]
    assert unfinished == [True, False]


def test_a_store_that_is_being_written_is_refused(tmp_path):
    store = tmp_path / "s"
    swept(store)
    before = stamps(store)
    with (
        _store.locked(store),
        pytest.raises(ValueError, match=r"store: .*being written by another process"),
    ):
        swept(store, seeds=5)
    assert stamps(store) == before
    swept(store, seeds=5)


def other(key, *, rate=1.0, depth=1, offset=0.0):
    noise = jax.random.normal(key, (3,))
    return {"x": rate * depth * noise + 2 * offset + 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: jd.sweep(other, {"rate": [0.1]}, seeds=4, store=s),
            "its program or data.*other here",
        ),
        (
            lambda s: jd.sweep(noisy, {"rate": [0.1], "offset": [1.0]}, seeds=4, store=s),
            "dimensions",
        ),
        (lambda s: jd.sweep(noisy, {"offset": [0.1]}, seeds=4, store=s), "dimensions"),
        (lambda s: swept(s, static={"depth": [1]}), "static"),
    ],
)
def test_another_experiment_is_refused_and_the_part_named(tmp_path, change, words):
    store = tmp_path / "s"
    swept(store)
    recorded = (store / "jaxdyn.json").read_text()
    before = stamps(store)
    with pytest.raises(ValueError, match=f"store: .*another experiment.*differs in .*{words}"):
        change(store)
    assert (store / "jaxdyn.json").read_text() == recorded
    assert stamps(store) == before


def test_another_precision_or_version_is_refused(tmp_path):
    store = tmp_path / "s"
    swept(store)
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match=r"differs in precision: .*'x64': False.*'x64': True"),
    ):
        swept(store)
    older = record(store)
    older["fingerprint"]["versions"]["jaxlib"] = "0.0.1"
    (store / "jaxdyn.json").write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"differs in versions: .*0\.0\.1"):
        swept(store)


def test_data_is_part_of_the_fingerprint(tmp_path):
    def experiment(*, data, rate):
        return {"x": rate * data}

    def run(data):
        of_data = functools.partial(experiment, data=data)
        return jd.sweep(of_data, {"rate": [1.0]}, store=tmp_path / "s")

    run(jnp.arange(3.0))
    run(jnp.arange(3.0))
    with pytest.raises(ValueError, match="program or data"):
        run(jnp.arange(1.0, 4.0))


def test_a_foreign_folder_is_left_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for call in (lambda: swept(tmp_path), lambda: results.save(swept(None), tmp_path)):
        with pytest.raises(ValueError, match=r"(store|path): .*is no"):
            call()
    with pytest.raises(ValueError, match=r"path: .*holds no results"):
        results.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match=r"store: .*is no"):
        swept(tmp_path / "thesis.tex")


def test_a_store_can_be_named_by_its_fingerprint(tmp_path):
    def named(fingerprint):
        return tmp_path / fingerprint[:8]

    swept(named)
    swept(named)
    assert len(list(tmp_path.iterdir())) == 1
    swept(named, seeds=3)
    jd.sweep(other, {"rate": [0.1]}, seeds=2, store=named)
    assert len(list(tmp_path.iterdir())) == 3


def test_saved_results_come_back_whole(tmp_path):
    depths = {"one": 1, "two": 2}
    labels = jd.sweep(noisy, static={"depth": depths}, seeds=2)
    both = {"labels": labels, "rates": swept(None)}
    results.save(both, tmp_path / "r")
    back = results.open(tmp_path / "r")
    assert list(back) == ["labels", "rates"]
    for name in both:
        xr.testing.assert_identical(back[name].load(), both[name])
    results.save(both["rates"], tmp_path / "r")
    back = results.open(tmp_path / "r").load()
    xr.testing.assert_identical(back, both["rates"])
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_a_failed_save_keeps_the_earlier_results(tmp_path):
    results.save(swept(None), tmp_path / "r")
    bad = ("seed", np.array([object()] * 4))
    broken = swept(None).assign(bad=bad)
    with pytest.raises(Exception):  # noqa: B017, PT011
        results.save(broken, tmp_path / "r")
    computed = results.open(tmp_path / "r").load()
    xr.testing.assert_equal(computed, swept(None))


def test_times_of_static_cells_survive_a_store(tmp_path):
    def count(key, state):
        return state._replace(params=state.params + 1)

    def observe(s):
        return {"n": s.params}

    def experiment(*, steps):
        return jd.iterate(count, 0, times=np.arange(0, steps), observe=observe)

    def run(store, steps):
        return jd.sweep(experiment, static={"steps": steps}, store=store)

    run(tmp_path / "s", [2])
    computed = run(tmp_path / "s", [2, 3])
    expected = run(None, [2, 3])
    xr.testing.assert_equal(computed, expected)


def test_git_and_the_device_are_recorded():
    made = _store.provenance(str(ROOT / "jaxdyn" / "types.py"))
    assert made["device"] == jax.devices()[0].device_kind
    if (ROOT / ".git").exists():
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert made["git"]["commit"] == done.stdout.strip()
