"""The pages: their examples run, every public name has an entry, and every term of the field is
explained."""

import inspect
import pkgutil
import re
from pathlib import Path

import jax
import pytest

import jaxdyn

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    path
    for path in sorted(DOCS.rglob("*.md"))
    if not {"_build", "papers", "notebooks", "api"} & set(path.parts)
]
UNLINKED = (
    "index.md",
    "glossary.md",
    "changelog.md",
    "benchmarks.md",
    "migrating-from-neural-tangents.md",
)
EXAMPLE = re.compile(r"^```(?:python|\{code-cell\} ipython3)\n(.*?)^```", re.DOTALL | re.MULTILINE)
EXAMPLES = {page: found for page in PAGES if (found := EXAMPLE.findall(page.read_text()))}


def named(path):
    return str(path.relative_to(DOCS))


@pytest.mark.slow
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
    """What a module offers: the names in its `__all__`, or else what is defined in it under a
    public name."""
    names = getattr(module, "__all__", None)
    if names is None:
        defined = inspect.getmembers(module, lambda v: inspect.isroutine(v) or inspect.isclass(v))
        names = [
            name
            for name, v in defined
            if v.__module__ == module.__name__ and not name.startswith("_")
        ]
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
    # A package is shown by what it offers.
    public = [value for value in reachable(jaxdyn) if not hasattr(value, "__path__")]
    assert not [value for value in public if id(value) not in entries]
    assert len(public) > 300


def test_every_name_that_a_page_refers_to_exists():
    modules = [jaxdyn, *filter(inspect.ismodule, reachable(jaxdyn))]
    known = {
        f"{m.__name__}.{name}" for m in modules for name in getattr(m, "__all__", None) or vars(m)
    }
    for page in PAGES:
        for name in re.findall(r"\{py:obj\}`([\w.]+)`", page.read_text()):
            assert any(f".{full}".endswith(f".{name.lstrip('.')}") for full in known), (
                f"{named(page)}: {name}"
            )


def prose(page):
    """What a page says, without its code, formulas, headings, roles (links to terms are some) and
    links."""
    text = re.sub(
        r"^(```|:::).*?^\1|^---\n.*?^---\n|^#.*?$",
        "",
        page.read_text(),
        flags=re.DOTALL | re.MULTILINE,
    )
    return re.sub(
        r"(\{[\w:]+\})?`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\[[^\]]*\]\([^)]*\)", "", text, flags=re.DOTALL
    )


def test_terms_are_explained_and_linked_where_they_are_used():
    entries = re.findall(r"^(\w.*)\n  ", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert entries == sorted(entries, key=str.lower)
    linked = set()
    for page in PAGES:
        links = {
            re.sub(r".*<(.*)>", r"\1", " ".join(link.split()))
            for link in re.findall(r"\{term\}`([^`]+)`", page.read_text())
        }
        assert links <= set(entries), f"{named(page)}: {links - set(entries)}"
        linked |= links
        if page.parent.name in ("docs", "howto", "theory") and page.name not in UNLINKED:
            used = set()
            words = prose(page)
            for term in sorted(entries, key=len, reverse=True):  # gradient flow before flow
                words, found = re.subn(rf"\b{re.escape(term)}s?\b", "", words)
                used |= {term} if found else set()
            assert used <= links, f"{named(page)}: link {sorted(used - links)} to the glossary"
    assert linked == set(entries), f"no page uses {set(entries) - linked}"
