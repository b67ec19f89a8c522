"""What Sphinx must know of this library: how its docstrings are written, and what its catalogue
holds."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

from docutils.nodes import SkipNode as SkipNode

from jaxdyn import papers, report

SUBJECTS = {
    "linear": "Papers on linear networks",
    "regression": "Papers on regression in high dimension",
    "online": "Papers on online learning",
    "saddles": "Papers on saddle-to-saddle dynamics",
    "descent": "Papers on descent in discrete steps",
    "plasticity": "Papers on learning rules that are no gradient",
    "width": "Papers on wide networks",
}
GALLERY = Path(__file__).parent / "gallery"
INTRODUCTION = """# The gallery of papers

Each paper is one place in `jaxdyn/papers`, a sequence of experiments. Its claims are judged by machine at two sizes;
published statements that do not hold are claims too, marked as refuted. The cost is that of a first run on one machine,
compiling included."""


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
    """Write the gallery of all papers, and a page for each subject with its papers."""
    folder.mkdir(exist_ok=True)
    table = report.table(papers.names(), GALLERY)
    for name in papers.names():
        table = table.replace(f"(#{name})", f"({papers.subject(name)}.md#{name})")
    _write(folder / "index.md", f"{INTRODUCTION}\n\n{table}\n")
    for subject in dict.fromkeys(map(papers.subject, papers.names())):
        entries = [_paper(name) for name in papers.names() if papers.subject(name) == subject]
        title = SUBJECTS.get(subject, f"Papers on {subject}")
        _write(folder / f"{subject}.md", "\n\n".join([f"# {title}", *entries]) + "\n")


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
    if text.startswith(("Args:\n", "Attributes:\n")):
        return _fields(text)
    return "".join(map(_marked, re.split(r"(`[^`]+`)", text)))


def _fields(text):
    """Return a section of fields, one a line, as a list."""
    heading = text.partition("\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", text, re.MULTILINE)
    described = [(name, _paragraph(" ".join(words.split()))) for name, words in entries]
    items = [f"- ``{name}``: {words}" for name, words in described]
    return "\n".join([heading, "", *items])


def _marked(part):
    if part[:1] != "`":
        return re.sub(r"([\\*|_<>`])", r"\\\1", part)
    code = part[1:-1]
    return f":py:obj:`{code}`\\ " if re.fullmatch(r"[A-Za-z_][\w.]*", code) else f"``{code}``\\ "


def _paper(name):
    paper = papers.load(name)
    reference = paper.REFERENCE
    body = _plain(paper.__doc__.split("\n\n", 1)[1])
    lines = [f"({name})=", f"## {reference.title}", _source(reference), body]
    lines.append(f"```console\n$ jaxdyn run {name}\n```")
    lines += [_experiment(name, experiment) for experiment in paper.EXPERIMENTS]
    return "\n\n".join(lines)


def _source(reference):
    """Return authors, year and a link to the paper itself, where it has a number."""
    text = f"{reference.authors}, {reference.year}."
    if reference.arxiv:
        return f"{text} [arXiv:{reference.arxiv}](https://arxiv.org/abs/{reference.arxiv})"
    if reference.doi:
        return f"{text} [doi:{reference.doi}](https://doi.org/{reference.doi})"
    return text


def _experiment(name, experiment):
    """Return the section of an experiment: what is seen, its figure, what is checked."""
    lines = [f"### {_plain(experiment.sentence.rstrip('.'))}"]
    picture = f"{name}-{experiment.name}.png"
    if (GALLERY / picture).exists():
        alt = experiment.sentence
        lines.append(f":::{{image}} /gallery/{picture}\n:width: 560px\n:alt: {alt}\n:::")
    claims = [
        f"- {_plain(claim.statement)}{'' if claim.holds else ' (**refuted**)'}"
        for claim in experiment.claims
    ]
    lines.append(f"`jaxdyn run {name} {experiment.name}` checks:")
    lines.append("\n".join(claims))
    return "\n\n".join(lines)


def _plain(text):
    return "".join(
        part if part[:1] == "`" else re.sub(r"([\\*|_<>\[\]$#])", r"\\\1", part)
        for part in re.split(r"(`[^`]+`)", text)
    )


def _write(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
