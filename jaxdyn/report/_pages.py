"""The pages: the gallery of all papers, and one of each.  Every page is one file beside its
pictures."""

import datetime
import functools
import inspect
import io
import json
import keyword
import math
import re
import shlex
import sys
import tokenize
from collections.abc import Collection, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from jaxdyn import papers
from jaxdyn.report import _charts
from jaxdyn.report._saved import NOT_RUN, WORDS, Ran, Saved, counts, two_digits

__all__ = ["asset", "gallery", "highlighted", "number", "page", "paper"]

MEANING = {
    "refuted": "Refuted: was published and does not hold.",
    "fails": "Fails: should hold and does not, here.",
    "unexpected": "Unexpected: should be refuted and holds, here.",
    "undecided": "Undecided: these results cannot judge it.",
}
TITLE = "jaxdyn: papers of learning dynamics, theory beside simulation"


@functools.cache
def asset(name: str) -> str:
    """Return the text of a file of `assets`."""
    return resources.files("jaxdyn.report").joinpath("assets", name).read_text(encoding="utf-8")


def page(
    title: str,
    nav: str,
    body: str,
    scripts: Sequence[str],
    data: Mapping[str, Any] = {},
    width: str = "",
) -> str:
    """Return a page that needs no other file: `data` {id: value} becomes JSON, `scripts` are names
    of assets."""
    # Inside a script the end of its element must not occur.
    embedded = {
        name: json.dumps(value, separators=(",", ":")).replace("</", "<\\/")
        for name, value in data.items()
    }
    parts = [
        f'<script type="application/json" id="{name}">{text}</script>'
        for name, text in embedded.items()
    ]
    parts += [f"<script>\n{asset(name)}</script>" for name in scripts]
    style = asset("style.css")
    theme = asset("theme.js")
    return Template(asset("page.html")).substitute(
        title=escape(title),
        nav=nav,
        body=body,
        scripts="\n".join(parts),
        style=style,
        theme=theme,
        width=width,
    )


def gallery(all_saved: Sequence[Saved], explored: Collection[str]) -> str:
    """Return the page of all papers, to search and to filter; those `explored` have sliders."""
    known = {papers.subject(saved.name) for saved in all_saved}
    subjects = [subject for subject in papers.SUBJECTS if subject in known]
    theories = sorted({name for saved in all_saved for name in _theories(saved)})
    verdicts = {word: word for word in ("holds", "refuted", "fails", "undecided")} | {
        "none": "no results"
    }

    def select(name, shown, options):
        return (
            f'<select name="{name}" aria-label="{shown}"><option value="">{shown}: all</option>'
            + "".join(
                f'<option value="{escape(value)}">{escape(text)}</option>'
                for value, text in options
            )
            + "</select>"
        )

    total = counts(verdict.word for saved in all_saved for verdict in saved.verdicts)
    body = f"""<h1>Papers of learning dynamics, theory beside simulation</h1>
<p class="quiet lead">Each paper is one place, a sequence of experiments; its claims are judged by machine
on the numbers shown here: {total or "none so far"}. A published statement that does not hold is
<span class="refuted">refuted</span>; a claim of ours that does not hold <span class="fails">fails</span>.</p>
<form id="filter" role="search">
<input type="search" name="search" placeholder="Search ( / )" aria-label="Search" autocomplete="off">
{select("subject", "Subject", [(subject, subject) for subject in subjects])}
{select("theory", "Theory", [(name, name.replace("_", " ")) for name in theories])}
{select("verdict", "Verdict", verdicts.items())}
<button type="reset">Reset</button><span id="found" role="status"></span>
</form>
<div class="cards">
{"".join(_card(saved, saved.name in explored) for saved in all_saved)}
</div>
<p id="none" class="quiet" hidden>No paper has all of this.</p>"""
    return page(TITLE, "<strong>jaxdyn</strong>", body, ["gallery.js"])


def paper(saved: Saved, near: Sequence[Saved | None], explored: bool) -> str:
    """Return the page of a paper, with links to the pages before and after it, and to its sliders
    if it has some."""
    ref = saved.reference
    module = papers.load(saved.name)
    source_link = _link(ref)
    about = re.sub(
        "`(.*?)`", r"<code>\1</code>", escape((module.__doc__ or "").strip().partition("\n\n")[2])
    )
    charts, more = _charts.charts(saved.datasets)
    sliders = f'<p><a class="button" href="explore/{saved.name}.html">Change a number, see the theory move</a></p>'
    sections = "\n".join(_experiment(saved, ran) for ran in saved.ran)
    body = f"""<h1>{escape(ref.title)}</h1>
<p class="quiet">{escape(ref.authors)}, {ref.year} · {escape(papers.subject(saved.name))}{source_link}</p>
{_trouble(saved) if saved.trouble else _marks(saved)}
<p class="lead">{about}</p>
{sliders if explored else ""}
{sections}
{_theory(charts, more)}
<h2>Its code</h2>
{_files(saved.name)}
{_near(near)}"""
    data = {"charts": charts} if charts else {}
    scripts = [*(["chart.js"] if charts else []), "paper.js"]
    nav = '<a href="index.html"><strong>jaxdyn</strong></a> <a href="index.html">All papers</a>'
    return page(f"{ref.name} · jaxdyn", nav, body, scripts, data, "narrow")


def _experiment(saved, ran):
    """Return the section of an experiment: what is seen, its figure, its claims, its command."""
    name = ran.experiment.name
    head = f'<h2 id="{name}">{escape(ran.experiment.sentence.rstrip("."))}</h2>'
    if ran.trouble:
        said = NOT_RUN if ran.trouble == NOT_RUN else escape(ran.trouble)
        return f'{head}\n<p class="quiet">{said}</p>\n{_command(saved.name, ran)}'
    figure = f"figures/{saved.name}-{name}"
    alt = escape(f"Figure: {ran.experiment.sentence}")
    return f"""{head}
<figure class="figure"><img src="{figure}.png" alt="{alt}" loading="lazy">
<figcaption><a href="{figure}.svg">As SVG</a></figcaption></figure>
{_stale(saved.name, ran)}{_claims(ran)}
{_command(saved.name, ran)}
{_made(ran)}"""


def highlighted(source: str) -> str:
    """Return Python's text as HTML with comments, strings and keywords marked; as it is where it is
    no Python.

    >>> highlighted("return 1  # one")
    '<b class="k">return</b> 1  <i class="c"># one</i>'
    """
    lines = source.splitlines(keepends=True)
    out = []
    last = (1, 0)

    def text(start, end):
        rows = lines[start[0] - 1 : end[0]]
        if len(rows) == end[0] - start[0] + 1:
            rows[-1] = rows[-1][: end[1]]
        return escape("".join(rows)[start[1] :], quote=False)

    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            kind = {tokenize.COMMENT: "c", tokenize.STRING: "s"}.get(token.type, "")
            kind = "k" if token.type == tokenize.NAME and keyword.iskeyword(token.string) else kind
            if kind:
                tag = {"c": "i", "s": "span", "k": "b"}[kind]
                out += [
                    text(last, token.start),
                    f'<{tag} class="{kind}">{text(token.start, token.end)}</{tag}>',
                ]
                last = token.end
    except (tokenize.TokenError, SyntaxError):
        return escape(source, quote=False)
    return "".join(out) + text(last, (len(lines) + 1, 0))


def _modules(name):
    """Return the module of a paper, and those of the other files in its folder."""
    paper = papers.load(name).__name__
    return [
        sys.modules[known] for known in sorted(sys.modules) if f"{known}.".startswith(f"{paper}.")
    ]


def _files(name):
    """Show each file of a paper, folded."""
    shown = []
    for module in _modules(name):
        source = inspect.getsource(module)
        path = Path(inspect.getsourcefile(module) or "").as_posix()
        place = "jaxdyn/papers" + path.rpartition("jaxdyn/papers")[2]
        shown.append(f"""<details><summary><code>{place}</code>, {len(source.splitlines())} lines</summary>
<pre class="source" tabindex="0"><code>{highlighted(source)}</code></pre></details>""")
    return "\n".join(shown)


def _theories(saved):
    """Return the modules of `theory` that a paper's files take something from, and "kernels" for
    infinite width."""
    found = [value for module in _modules(saved.name) for value in vars(module).values()]
    taken = [getattr(value, "__module__", getattr(value, "__name__", "")) for value in found]
    parts = [
        str(name).split(".")
        for name in taken
        if str(name).startswith(("jaxdyn.theory.", "jaxdyn.kernels"))
    ]
    return sorted({"kernels" if part[1] == "kernels" else part[2] for part in parts})


def _card(saved, explored):
    ref = saved.reference
    words = {verdict.word for verdict in saved.verdicts}
    verdicts = " ".join(sorted(words | ({"fails"} if "unexpected" in words else set()) or {"none"}))
    sliders = f' · <a href="explore/{saved.name}.html">sliders</a>' if explored else ""
    if saved.trouble:
        picture = f'<div class="blank">{escape(saved.trouble)}</div>'
        foot = f"<code>jaxdyn run {saved.name}</code>"
    else:
        alt = f"{escape(ref.name)}: thumbnail of the figure"
        picture = f'<img src="figures/{saved.name}.webp" width="480" height="330" loading="lazy" alt="{alt}">'
        ran = f"{len(saved.whole)} of {len(saved.ran)} experiments"
        foot = f'<span class="quiet">{ran}</span>'
    marked = f'data-subject="{papers.subject(saved.name)}" data-verdicts="{verdicts}" data-words="{saved.name}"'
    marked += f' data-theories="{" ".join(_theories(saved))}"'
    return f"""<article class="card" {marked}>
{picture}
<div class="about"><h2><a href="{saved.name}.html">{escape(ref.name)}</a></h2>
<p class="quiet">{escape(ref.authors)}, {ref.year}</p>
<p>{escape(ref.reproduces)}</p>
<div class="foot"><span class="quiet">{papers.subject(saved.name)}{sliders}</span>{foot}</div>
{_marks(saved)}</div></article>
"""


def _marks(saved):
    """Return the verdicts as a row of marks, and counted in words."""
    row = "".join(f'<i class="{verdict.word}"></i>' for verdict in saved.verdicts)
    said = counts(verdict.word for verdict in saved.verdicts).split(", ")
    word = {**{word: word for word in WORDS}, "hold": "holds", "fail": "fails"}
    text = "".join(f'<span class="{word[part.split()[1]]}">{part}</span>' for part in said if part)
    return (
        f'<div class="marks" aria-hidden="true">{row}</div><p class="counts">{text}</p>'
        if row
        else ""
    )


def _claims(ran: Ran) -> str:
    rows = "".join(
        f'<tr data-verdict="{v.word}"><td class="verdict {v.word}">{v.word}</td>'
        f'<td class="statement">{escape(v.statement)}<br><span class="quiet">{escape(v.quantity)}'
        f"{escape(f' ({v.reason})' if v.reason else '')}</span></td>"
        f'<td class="number">{number(v.value)}</td><td class="number">{_bound(v)}</td></tr>\n'
        for v in ran.verdicts
    )
    head = "<th>verdict</th><th>statement and what was measured</th>"
    head += '<th class="number">value</th><th class="number">to hold</th>'
    words = {verdict.word for verdict in ran.verdicts}
    said = " ".join(text for word, text in MEANING.items() if word in words)
    table = f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>'
    return f'{table}\n<p class="quiet">{said}</p>'


def _bound(verdict):
    low = number(verdict.low)
    high = number(verdict.high)
    if verdict.low == -math.inf:
        return f"&lt; {high}"
    return f"&gt; {low}" if verdict.high == math.inf else f"{low} to {high}"


def _link(reference):
    """Return a link to the paper itself, where it has a number."""
    if reference.arxiv:
        address = f"https://arxiv.org/abs/{reference.arxiv}"
        return f' · <a href="{address}">arXiv:{reference.arxiv}</a>'
    if reference.doi:
        return f' · <a href="https://doi.org/{reference.doi}">doi:{reference.doi}</a>'
    return ""


def number(value: float) -> str:
    """Return a number to three digits, with a power of ten where that is shorter.

    >>> number(3.21e-7), number(0.02), number(float("nan"))
    ('3.21·10<sup>−7</sup>', '0.02', 'none')
    """
    if value != value:
        return "none"
    digits, _, exponent = f"{value:.3g}".replace("-", "−").replace("inf", "∞").partition("e")
    return (
        f"{digits}·10<sup>{exponent[0].strip('+')}{exponent[1:].lstrip('0')}</sup>"
        if exponent
        else digits
    )


def _theory(charts, more):
    if not charts:
        return ""
    groups = dict.fromkeys(chart["group"] for chart in charts)
    options = "".join(
        f'<optgroup label="{escape(group)}">'
        + "".join(
            f'<option value="{i}">{escape(chart["view"])}</option>'
            for i, chart in enumerate(charts)
            if chart["group"] == group
        )
        + "</optgroup>"
        for group in groups
    )
    left = f'<p class="quiet">{more} more are in the results.</p>' if more else ""
    return f"""<h2>Theory beside simulation</h2>
<div class="choice"><label for="pair" class="quiet">Shown</label><select id="pair">{options}</select></div>
<div id="chart"></div>
<p class="quiet">Points are the simulation, means over seeds with standard errors where there are seeds; lines are
theory, also for runs to which it is not meant to apply: the claims say where it holds.</p>{left}"""


def _command(name, ran: Ran) -> str:
    words = ["jaxdyn", "run", name, ran.experiment.name]
    size = ran.made.get("size", "quick")
    if size != "quick":
        words += ["--size", size]
    usual = ran.experiment.sized(size)
    for option, value in ran.made.get("options", {}).items():
        given = tuple(value) if isinstance(value, list) else value
        if given == usual.get(option):
            continue
        # A truth is a flag of its own.
        flag = option.replace("_", "-")
        words.append(f"--no-{flag}" if value is False else f"--{flag}")
        if not isinstance(value, bool):
            words += map(str, value if isinstance(value, list) else [value])
    code = escape(shlex.join(words))
    button = '<button type="button" class="copy">Copy</button>'
    return f'<div class="command"><code>{code}</code>{button}</div>'


def _made(ran: Ran) -> str:
    made = ran.made
    git = ran.made.get("git") or {}
    when = datetime.datetime.fromisoformat(made["started"]).strftime("%Y-%m-%d %H:%M UTC")
    commit = f"{git['commit'][:12]}{', with changes' if git['dirty'] else ''}" if git else ""
    options = ", ".join(
        f"{name} {' '.join(map(str, v)) if isinstance(v, list) else v}"
        for name, v in made["options"].items()
    )
    rows = {
        "size": made["size"] + ("" if made["default"] else ", with own options"),
        "options": options,
        "cost": _cost(ran)
        + (f", {made['wall_seconds']:.3g} s of wall time" if made["wall_seconds"] else ""),
        "finished": when,
        "on": made["device"],
        "versions": ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
        "commit": commit,
    }
    shown = "".join(
        f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows.items() if text
    )
    return f'<details><summary>How it was made</summary><dl class="made">{shown}</dl></details>'


def _cost(ran):
    made = ran.made
    stored = " with stored runs" if ran.made["reused"] else ""
    seconds = made["cpu_seconds"]
    own = "" if made["default"] else ", own options"
    return f"{made['size']}{own}: " + (
        "cost not recorded" if seconds is None else f"{two_digits(seconds)} CPU-s{stored}"
    )


def _trouble(saved):
    again = f"<code>jaxdyn run {saved.name}</code>"
    said = "has not been run yet" if saved.trouble == NOT_RUN else f"has {escape(saved.trouble)}"
    return f'<div class="note"><p>This paper {said}. {again} makes its figures, numbers and verdicts.</p></div>'


def _stale(name, ran: Ran) -> str:
    claims = [claim.statement for claim in ran.experiment.claims]
    if [verdict.statement for verdict in ran.verdicts] == claims:
        return ""
    again = f"<code>jaxdyn verify {name} {ran.experiment.name}</code>"
    return f'<div class="note"><p>The claims have changed since these were judged: {again} judges them again.</p></div>'


def _near(near):
    links = [
        f'<a rel="{rel}" href="{saved.name}.html">{escape(saved.reference.name)}</a>'
        if saved
        else "<span></span>"
        for rel, saved in zip(("prev", "next"), near, strict=True)
    ]
    return f'<nav class="near" aria-label="Papers before and after">{"".join(links)}</nav>'
