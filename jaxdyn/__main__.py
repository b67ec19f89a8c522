"""The command line: list | run | verify | plot | report | explore | animate.

`run` writes into `<out>/<paper>/<experiment>/`: `results` (zarr), `figure.png` and `.svg`,
`verdicts.json`, `provenance.json`, and `runs`, the stores from which a second run with the same
options takes what it needs.
"""

import functools
import inspect
import json
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import jax
from cyclopts import App, Parameter

from jaxdyn import animations, papers, plot, results, sweep, verify
from jaxdyn.sweep import _store
from jaxdyn.types import nearest

__all__ = ["app", "main"]

COLUMNS = 80
USAGE = "Usage: jaxdyn run PAPER [EXPERIMENT] [--size quick|paper] [--OPTION value]... [--out DIR]"

app = App(
    name="jaxdyn", help="Reproduce the papers of learning dynamics, theory beside simulation."
)


@app.command(name="list")
def list_papers(name: str = "", *, out: Path = Path("results")) -> int:
    """List the papers, or the experiments of one, with what was run and how it came out.

    Parameters
    ----------
    name
        The paper whose experiments are listed.
    out
        Where `run` has saved.
    """
    if name:
        experiments = papers.load(name).EXPERIMENTS
        print("\n\n".join(_described(name, experiment, out) for experiment in experiments))
        return 0
    for paper in papers.names():
        experiments = papers.load(paper).EXPERIMENTS
        number = f"{len(experiments)} experiment{'s' if len(experiments) > 1 else ''}"
        said = _said(out, paper, experiments)
        print(f"{papers.subject(paper):10}  {paper:15}  {number:13}  {said}"[:COLUMNS].rstrip())
    return 0


@app.command(name="run", help_flags=[])
def run_paper(*tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]) -> int:
    """Reproduce a paper or one of its experiments: simulate, judge the claims, draw the figures.

    `jaxdyn run PAPER --help` lists its experiments, `jaxdyn run PAPER EXPERIMENT --help` the options
    of one.
    """
    if not tokens or tokens[0].startswith("-"):
        print(USAGE)
        print(textwrap.fill(f"Papers: {' '.join(papers.names())}", COLUMNS))
        return 0 if tokens else 2
    name, *words = tokens
    paper = papers.load(name)
    if words and not words[0].startswith("-"):
        experiment = _experiment(name, words[0])
        command = _command_of_one(name, experiment)
        title = f"jaxdyn run {name} {experiment.name}"
        description = _unwrapped((inspect.getdoc(experiment.run) or "").partition("\nArgs:\n")[0])
        words = words[1:]
    else:
        _check_no_options(name, words)
        command = functools.partial(_run_all, name)
        title = f"jaxdyn run {name}"
        description = _help_of_all(name, paper)
    single = App(
        name=title, help=description, help_format="plaintext", result_action="return_value"
    )
    single.default(command)
    return single(words) or 0


@app.command(name="report")
def report_papers(
    *names: str,
    results: Path = Path("results"),
    out: Path = Path("site"),
    record: bool = False,
    records: Path = Path("docs/gallery"),
) -> int:
    """Write a site of papers, by default of all, from what `run` has saved.

    Parameters
    ----------
    results
        Where `run` has saved.
    out
        The folder of the site; open its index.html.
    record
        Keep the verdicts and the cost of saved runs in the records instead.
    records
        The folder of the records.
    """
    from jaxdyn import explore, report

    chosen = names or tuple(papers.names())
    if record:
        for name in chosen:
            print(report.record(report.read(name, results), records))
        return 0
    _keep_programs()
    explored = [name for name in chosen if name in explore.names()]
    _say(f"computing the sliders of {len(explored)} papers")
    tables = {name: explore.table(name) for name in explored}
    print(report.site(out, results=results, names=chosen, tables=tables)[0])
    return 0


@app.command(name="explore")
def explore_paper(name: str, *, out: Path = Path("explore")) -> int:
    """Write a page with sliders: change a number and see the theory move at once."""
    from jaxdyn import explore, report

    _keep_programs()
    path = out / f"{name}.html"
    report.write(path, report.exploration(explore.table(name)))
    print(path)
    return 0


@app.command(name="verify")
def verify_papers(
    name: str = "", experiment: str = "", *, out: Path = Path("results"), json: bool = False
) -> int:
    """Judge the claims again on saved results: of one experiment, of a paper, or of all.

    Parameters
    ----------
    name
        The paper; by default all that have results.
    experiment
        The experiment; by default all of the paper that have results.
    out
        Where `run` has saved.
    json
        Print the verdicts as JSON.
    """
    chosen = [name] if name else [paper for paper in papers.names() if _ran(out, paper)]
    if not chosen:
        raise ValueError(
            f"out: no results in {str(out)!r}; run a paper first: jaxdyn run {papers.names()[0]}"
        )
    codes = [
        _judge(paper, one, out, json) for paper in chosen for one in _saved(paper, experiment, out)
    ]
    return max(codes)


@app.command(name="plot")
def plot_paper(name: str, experiment: str = "", *, out: Path = Path("results")) -> int:
    """Draw the figures of a paper, or of one of its experiments, again from saved results."""
    for chosen in _saved(name, experiment, out):
        folder = out / name / chosen.name
        for path in _draw(chosen, results.open(folder / "results"), folder):
            print(path)
    return 0


@app.command(name="animate")
def animate_paper(name: str = "", *, out: Path | None = None) -> int:
    """Write a GIF of a paper's dynamics, by default NAME.gif, from a small simulation of its own.

    It takes about a minute.
    """
    if not name:
        print("Usage: jaxdyn animate NAME [--out FILE]\nAnimations:", *animations.names())
        return 2
    module = animations.load(name)
    path = out or Path(f"{name}.gif")
    if path.suffix != ".gif":
        raise ValueError(f"out: {str(path)!r} is no GIF; pass a name that ends in .gif")
    _say(f"{name}: simulating")
    animations.save(module.animation(), path)
    print(path)
    return 0


def main() -> None:
    """Run the command line.

    It exits with 0 where all claims are as expected, 1 where one is not, 2 where nothing ran, 130
    after Ctrl-C.  With JAXDYN_TRACEBACK=1 in the environment an error shows where it arose.
    """
    try:
        code = app(sys.argv[1:], result_action="return_value", exit_on_error=False)
    except BrokenPipeError:
        # The reader of a pipe, such as head, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (cyclopts.CycloptsError, ImportError, OSError, TypeError, ValueError) as error:
        if os.environ.get("JAXDYN_TRACEBACK"):
            raise
        if not isinstance(error, cyclopts.CycloptsError):
            _say(f"error: {error}")
        code = 2
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from the blocks that are finished")
        code = 130
    sys.exit(code)


def _run_all(
    name: str,
    *,
    size: Annotated[
        str, Parameter(help="quick, in seconds, or paper, the numbers of the paper itself.")
    ] = "quick",
    out: Annotated[Path, Parameter(help="The folder of all results.")] = Path("results"),
    json: Annotated[bool, Parameter(help="Print the verdicts as JSON.")] = False,
) -> int:
    """Run all experiments of a paper; 1 where a claim is not as expected."""
    codes = [
        _reproduce(name, experiment, size, {}, out, json)
        for experiment in papers.load(name).EXPERIMENTS
    ]
    return max(codes)


def _command_of_one(name, experiment):
    """Return the command of one experiment, with its options, typed by their defaults."""

    # Types and help are those of the signature below.
    def command(*, size="quick", out=Path("results"), json=False, **given):
        changed = {option: value for option, value in given.items() if value is not None}
        return _reproduce(name, experiment, size, changed, out, json)

    keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    common = list(inspect.signature(_run_all).parameters.values())[1:]
    own = [
        keyword(option, default=None, annotation=_annotation(option, declared))
        for option, declared in papers.options(experiment).items()
    ]
    command.__signature__ = inspect.Signature([*common, *own])
    return command


def _annotation(option, declared):
    """Return the type of an option of the command line, with its help: that of its default."""
    many = isinstance(declared.default, tuple)
    kind = type(declared.default[0]) if many else type(declared.default)
    shown = " ".join(map(str, declared.default)) if many else declared.default
    described = declared.description[:1].upper() + declared.description[1:]
    text = f"{described} Default at quick: {shown}".strip()
    if kind is bool and not many:
        return Annotated[bool | None, Parameter(help=text)]
    strict = Parameter(
        converter=functools.partial(_converted, option, kind, many),
        consume_multiple=many,
        negative=(),
        n_tokens=-1 if many else 1,
        help=text,
    )
    return Annotated[(tuple[kind, ...] if many else kind) | None, strict]


def _converted(option, kind, many, _, tokens):
    def convert(token):
        try:
            return kind(token.value)
        except ValueError:
            raise ValueError(f"{option}: {token.value!r} is no {kind.__name__}") from None

    values = tuple(map(convert, tokens))
    return values if many else values[0]


def _experiment(name, wanted):
    """Return an experiment of a paper by its name."""
    experiments = {experiment.name: experiment for experiment in papers.load(name).EXPERIMENTS}
    wanted = wanted.replace("-", "_")
    if wanted not in experiments:
        raise ValueError(
            f"experiment: {name} has no experiment {wanted!r}; {nearest(wanted, experiments)}"
        )
    return experiments[wanted]


def _check_no_options(name, words):
    """Refuse an option of an experiment where none is named."""
    given = {
        word.partition("=")[0][2:].replace("-", "_") for word in words if word.startswith("--")
    }
    for experiment in papers.load(name).EXPERIMENTS:
        if clash := sorted(given & set(papers.options(experiment))):
            raise ValueError(
                f"--{clash[0].replace('_', '-')}: is an option of an experiment; name it: "
                f"jaxdyn run {name} {experiment.name} --{clash[0].replace('_', '-')} ..."
            )


def _help_of_all(name, paper):
    lines = [_unwrapped(inspect.getdoc(paper)), "", "Experiments:", ""]
    for experiment in paper.EXPERIMENTS:
        lines.append(_indented(f"{experiment.name}: {experiment.sentence}"))
    lines += ["", f"jaxdyn run {name} EXPERIMENT --help lists the options of one."]
    return "\n".join(lines)


def _described(name, experiment, out):
    said = _said(out, name, [experiment])
    return "\n".join([experiment.name, _indented(experiment.sentence), f"  {said}"])


def _unwrapped(docstring):
    """Join the lines of each paragraph: the terminal breaks them where it ends."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.strip().split("\n\n"))


def _indented(text):
    return textwrap.fill(text, COLUMNS, initial_indent="  ", subsequent_indent="  ")


def _said(out, name, experiments):
    """Say what was run of some experiments of a paper, and how the claims came out."""
    from jaxdyn.report import counts

    ran = _ran(out, name)
    folders = [out / name / experiment.name for experiment in experiments if experiment.name in ran]
    if not folders:
        return "not run yet"
    made = [json.loads((folder / "provenance.json").read_text()) for folder in folders]
    sizes = dict.fromkeys(one["size"] if one["default"] else "own options" for one in made)
    words = [
        _word(verdict)
        for folder in folders
        for verdict in json.loads((folder / "verdicts.json").read_text())
    ]
    part = f"{len(folders)} of {len(experiments)}, " if len(folders) < len(experiments) else ""
    return f"{part}{', '.join(sizes)}: {counts(words)}"


def _word(verdict):
    from jaxdyn import Verdict

    return Verdict(**verdict).word


def _reproduce(name, experiment, size, given, out, as_json):
    """Run an experiment, judge it, draw it; 1 where a claim is not as expected."""
    options = experiment.sized(size) | given
    if size == "quick":
        # Compiling is most of a quick run: 13.1 -> 4.0 s at this level, for 10% slower runs.
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_backend_optimization_level" not in flags:
            os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=1 {flags}".strip()
    _keep_programs()
    plot.style()  # raises without matplotlib: better now than after the run
    _ran(out, name)  # raises where an earlier version has saved
    folder = out / name / experiment.name
    _say(f"{name} {experiment.name}: running at size {size}, into {folder}")
    reused = []

    def store(fingerprint):
        path = folder / "runs" / fingerprint[:16]
        reused.append(path.exists())
        return path

    wall = time.perf_counter()
    cpu = _cpu_seconds()
    found = experiment.run(sweep=functools.partial(sweep, store=store), **options)
    results.save(found, folder / "results")
    made = _store.provenance(inspect.getsourcefile(inspect.unwrap(experiment.run)))
    made |= {
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(_cpu_seconds() - cpu, 2),
        "paper": name,
        "experiment": experiment.name,
        "size": size,
        "options": options,
        "default": options == experiment.sized(size),
        "reused": any(reused),
    }
    _write(folder / "provenance.json", made)
    code = _judge(name, experiment, out, as_json)
    for path in _draw(experiment, found, folder):
        print(path, file=sys.stderr if as_json else sys.stdout)
    return code


def _judge(name, experiment, out, as_json):
    """Write and print the verdicts on saved results; 1 where one is not as expected."""
    folder = out / name / experiment.name
    verdicts = verify(experiment.claims, results.open(folder / "results"))
    judged = [verdict._asdict() for verdict in verdicts]
    _write(folder / "verdicts.json", judged)
    if as_json:
        print(json.dumps({name: {experiment.name: judged}}))
    else:
        print(f"\n{textwrap.fill(experiment.sentence, COLUMNS)}\n")
        print("\n".join(map(_line, verdicts)))
        expected = sum(verdict.expected for verdict in verdicts)
        print(f"\n{expected} of {len(verdicts)} claims as expected; numbers in {folder}")
    # Other options than a size's own may leave a claim undecided; the sizes must decide all.
    default = json.loads((folder / "provenance.json").read_text())["default"]
    return int(not all(v.expected or (v.holds is None and not default) for v in verdicts))


def _line(verdict):
    """Say a verdict: the word, the statement, and the quantity with its value and bound."""
    word = f"  {verdict.word:10}"
    rest = " " * len(word)
    wrap = functools.partial(textwrap.fill, width=COLUMNS + 20, subsequent_indent=rest)
    number = verdict.reason or f"= {verdict.value:.3g} ({verdict.bound})"
    measured = f"{verdict.quantity}{': ' if verdict.reason else ' '}{number}"
    return "\n".join(
        [
            wrap(verdict.statement, initial_indent=word),
            wrap(measured, initial_indent=rest),
        ]
    )


def _draw(experiment, found, folder):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    paths = [folder / f"figure.{kind}" for kind in ("png", "svg")]
    with plot.style():
        figure = plt.figure(layout="constrained")
        experiment.plot(found, figure)
        # The first layout is that for the default ticks; the labels of the final ones may be wider.
        figure.draw_without_rendering()
        for path in paths:
            figure.savefig(path, dpi=190)
        plt.close(figure)
    return paths


def _ran(out, name):
    """Return the names of the experiments of a paper that have results; refuse those of 0.1."""
    folder = out / name
    if (folder / "provenance.json").exists():
        raise ValueError(
            f"out: {str(folder)!r} holds results of jaxdyn 0.1, which knew no experiments; remove "
            "it, or pass another --out"
        )
    return [path.parent.name for path in sorted(folder.glob("*/verdicts.json"))]


def _saved(name, wanted, out):
    """Return the experiments of a paper that have results, or the one that is wanted."""
    experiments = papers.load(name).EXPERIMENTS
    chosen = [_experiment(name, wanted)] if wanted else experiments
    saved = [experiment for experiment in chosen if experiment.name in _ran(out, name)]
    if not saved:
        command = f"jaxdyn run {name} {wanted}".strip()
        raise ValueError(f"name: no results of {name!r} in {str(out)!r}; run it first: {command}")
    return saved


def _keep_programs():
    """Keep compiled programs from run to run."""
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxdyn"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _cpu_seconds():
    """Return the seconds that all cores have spent on this process and its children so far."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1))
    part.replace(path)


if __name__ == "__main__":
    main()
