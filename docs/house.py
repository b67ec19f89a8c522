"""What Sphinx must know of this library: how its docstrings are written, and what its catalogue
holds."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

from docutils.nodes import SkipNode as SkipNode

from jaxdyn import papers

CHAPTERS = {
    "linear": "Papers on linear networks and regression",
    "kernels": "Papers on kernels and infinite width",
    "saddles": "Papers on saddles, symmetry and stability",
}


def docstring(app, what, name, obj, options, lines):
    """Turn a docstring into reStructuredText: plain text, code in single backticks, formulas
    indented by four."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
    lines[:] = "\n\n".join(map(_paragraph, paragraphs)).split("\n")


def signature(app, what, name, obj, options, arguments, returned):
    """Show annotations as they are written: `Float[Array, "samples inputs"]`, `Params`; of a tuple
    its fields."""
    if arguments is None or not str(getattr(obj, "__module__", "")).startswith("jaxdyn"):
        return None
    node = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))).body[0]
    if isinstance(node, ast.ClassDef):
        fields = [ast.unparse(field) for field in node.body if isinstance(field, ast.AnnAssign)]
        return f"({', '.join(fields)})", None
    return f"({ast.unparse(node.args).removeprefix('self')})", node.returns and ast.unparse(
        node.returns
    )


def skip(app, what, name, obj, skipped, options):
    """Leave the fields of tuples to the signature."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def write_catalogue(folder):
    """Write a page for each chapter of the catalogue, with the figure and the claims of each of its
    papers."""
    folder.mkdir(exist_ok=True)
    loaded = [(name, papers.load(name)) for name in papers.names()]
    for chapter in sorted({paper.REFERENCE.chapter for _, paper in loaded}):
        entries = [
            _entry(name, paper) for name, paper in loaded if paper.REFERENCE.chapter == chapter
        ]
        title = CHAPTERS.get(chapter, f"Papers on {chapter}")
        _write(folder / f"{chapter}.md", "\n\n".join([f"# {title}", *entries]) + "\n")


def copy_notebooks(source, folder):
    """Copy the notebooks to where Sphinx looks for pages."""
    folder.mkdir(exist_ok=True)
    for path in source.glob("*.py"):
        _write(folder / path.name, path.read_text())


def _paragraph(text):
    if text.lstrip().startswith(">>>"):
        return text
    if text.startswith("    "):
        return "::\n\n" + text
    return "".join(map(_marked, re.split(r"(`[^`]+`)", text)))


def _marked(part):
    if part[:1] != "`":
        return re.sub(r"([\\*|_<>`])", r"\\\1", part)
    code = part[1:-1]
    return f":py:obj:`{code}`\\ " if re.fullmatch(r"[A-Za-z_][\w.]*", code) else f"``{code}``\\ "


def _entry(name, paper):
    ref, body = paper.REFERENCE, paper.__doc__.split("\n\n", 1)[1]
    source = f"[arXiv:{ref.arxiv}](https://arxiv.org/abs/{ref.arxiv})" if ref.arxiv else ""
    lines = [f"({name})=", f"## {ref.title}", f"{ref.authors}, {ref.year}. {source}", _plain(body)]
    if (Path(__file__).parent / "gallery" / f"{name}.png").exists():
        lines.append(f":::{{image}} /gallery/{name}.png\n:width: 640px\n:alt: {ref.title}\n:::")
    lines.append(f"```console\n$ jaxdyn run {name}\n```")
    claims = [
        f"- {_plain(c.statement)}" + ("" if c.holds else " (**refuted**)") for c in paper.CLAIMS
    ]
    return "\n\n".join([*lines, "What is checked:", "\n".join(claims)])


def _plain(text):
    return "".join(
        part if part[:1] == "`" else re.sub(r"([\\*|_<>\[\]$#])", r"\\\1", part)
        for part in re.split(r"(`[^`]+`)", text)
    )


def _write(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
