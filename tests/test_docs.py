"""The pages: their examples run, every public name has an entry, and every term of the field is explained."""

import inspect
import pkgutil
import re
from pathlib import Path

import jax
import pytest

import jaxdyn

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not {"_build", "papers", "api"} & set(path.parts)]
EXAMPLE = re.compile(r"^```(?:python|\{code-cell\} ipython3)\n(.*?)^```", re.DOTALL | re.MULTILINE)
EXAMPLES = {page: found for page in PAGES if (found := EXAMPLE.findall(page.read_text()))}


def named(path):
    return str(path.relative_to(DOCS))


@pytest.mark.parametrize("page", EXAMPLES, ids=named)
def test_examples_run(page, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    # As one reads them: from top to bottom, each going on from those above.
    names = {"__name__": "page"}
    with jax.numpy_rank_promotion("allow"):
        for code in EXAMPLES[page]:
            exec(compile(code, str(page), "exec"), names)
    plt.close("all")


def own(module):
    """What a module offers: the names in its `__all__`, or else what is defined in it under a public name."""
    names = getattr(module, "__all__", None)
    if names is None:
        defined = inspect.getmembers(module, lambda v: inspect.isroutine(v) or inspect.isclass(v))
        names = [name for name, v in defined if v.__module__ == module.__name__ and not name.startswith("_")]
    return [getattr(module, name) for name in names]


def reachable(module):
    for value in own(module):
        yield value
        if inspect.ismodule(value):
            yield from reachable(value)


def test_every_public_name_has_an_entry():
    text = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    entries = set()
    for kind, name in re.findall(r"^\.\. auto(\w+):: ([\w.]+)", text, re.MULTILINE):
        value = pkgutil.resolve_name(name if kind == "module" else ":".join(name.rsplit(".", 1)))
        entries |= {id(value)} | ({id(v) for v in own(value)} if kind == "module" else set())
    public = [value for value in reachable(jaxdyn) if value is not jaxdyn.theory]
    assert not [value for value in public if id(value) not in entries]
    assert len(public) > 300
