"""The command line: list | run | verify | plot | report | explore | animate.

`run` writes into `<out>/<name>/`: `results` (zarr), `figure.png` and `.svg`, `verdicts.json`,
`provenance.json`, and `runs`, the stores from which a second run with the same options takes what
it needs.
"""

import functools
import inspect
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import jax
from cyclopts import App, Parameter

from jaxdyn import animations, papers, plot, results, sweep, verify
from jaxdyn.sweep import _store

app = App(
    name="jaxdyn", help="Reproduce the papers of learning dynamics, theory beside simulation."
)


@app.command(name="list")
def list_papers() -> int:
    """List the papers of the catalogue."""
    rows = [(name, papers.load(name).REFERENCE) for name in papers.names()]
    for name, ref in rows:
        print(f"{name:16}  {ref.chapter:10}  {ref.title} ({ref.authors}, {ref.year})")
    return 0


@app.command(name="run", help_flags=[])
def run_paper(*tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]) -> int:
    """Reproduce a paper: simulate, judge its claims, draw its figure.  `jaxdyn run NAME --help`
    lists its options."""
    if not tokens or tokens[0].startswith("-"):
        print(
            "Usage: jaxdyn run NAME [--size quick|paper] [--OPTION value]... [--out DIR] [--json]"
        )
        print("Papers:", *papers.names())
        return 0 if tokens else 2
    paper = papers.load(tokens[0])
    single = App(
        name=f"jaxdyn run {tokens[0]}",
        help=paper.__doc__,
        help_format="plaintext",
        result_action="return_value",
    )
    single.default(_command(tokens[0], paper))
    return single(tokens[1:]) or 0


@app.command(name="report")
def report_papers(
    *names: str,
    results: Path = Path("results"),
    out: Path = Path("site"),
    table: bool = False,
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
    table
        Print the table of papers from their records instead.
    record
        Keep the verdicts and the cost of saved runs in the records instead.
    records
        The folder of the records.
    """
    from jaxdyn import report

    chosen = names or tuple(papers.names())
    if record:
        print(*(report.record(report.read(name, results), records) for name in chosen), sep="\n")
    elif table:
        print(report.table(chosen, records))
    else:
        from jaxdyn import explore

        _keep_programs()
        explored = [name for name in chosen if name in explore.names()]
        print(f"computing the sliders of {len(explored)} papers", file=sys.stderr, flush=True)
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
def verify_papers(*names: str, out: Path = Path("results"), json: bool = False) -> int:
    """Judge the claims of papers again on their saved results, by default of all that have some."""
    saved = [path.parent.name for path in sorted(out.glob("*/verdicts.json"))]
    if not names and not saved:
        raise ValueError(
            f"out: no results in {str(out)!r}; run a paper first: jaxdyn run {papers.names()[0]}"
        )
    codes = [_judge(name, out, json) for name in names or saved]
    return max(codes)


@app.command(name="plot")
def plot_paper(name: str, *, out: Path = Path("results")) -> int:
    """Draw a paper's figure again from its saved results."""
    paper = papers.load(name)
    for path in _draw(paper, _saved(name, out), out / name):
        print(path)
    return 0


@app.command(name="animate")
def animate_paper(name: str = "", *, out: Path | None = None) -> int:
    """Write a GIF of a paper's dynamics, by default NAME.gif, from a small simulation of its own
    (about a minute)."""
    if not name:
        print("Usage: jaxdyn animate NAME [--out FILE]\nAnimations:", *animations.names())
        return 2
    module = animations.load(name)
    path = out or Path(f"{name}.gif")
    if path.suffix != ".gif":
        raise ValueError(f"out: {str(path)!r} is no GIF; pass a name that ends in .gif")
    print(f"{name}: simulating", file=sys.stderr)
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
    except (cyclopts.CycloptsError, ImportError, OSError, TypeError, ValueError) as error:
        if os.environ.get("JAXDYN_TRACEBACK"):
            raise
        if not isinstance(error, cyclopts.CycloptsError):
            print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print(
            "interrupted; the same command goes on from the blocks that are finished",
            file=sys.stderr,
        )
        code = 130
    sys.exit(code)


def _command(name, paper):
    """Return the command of one paper, with the options of its `run`, typed by its sizes."""

    def command(
        *, size: str = "quick", out: Path = Path("results"), json: bool = False, **given: Any
    ) -> int:
        if size not in paper.SIZES:
            raise ValueError(f"size: {size!r} is none of {list(paper.SIZES)}")
        given = {option: value for option, value in given.items() if value is not None}
        return _reproduce(name, paper, size, given, out, json)

    common = list(inspect.signature(command).parameters.values())[:3]
    sizes = paper.SIZES["quick"]
    keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    options = [
        keyword(o, default=None, annotation=_annotation(o, value)) for o, value in sizes.items()
    ]
    command.__signature__ = inspect.Signature([*common, *options])
    command.__doc__ = paper.__doc__
    return command


def _annotation(option, value):
    kind = type(value)
    many = kind is tuple
    kind = type(value[0]) if many else kind
    strict = Parameter(
        converter=functools.partial(_converted, option, kind, many),
        consume_multiple=many,
        negative=(),
        n_tokens=-1 if many else 1,
        help=f"default at quick: {' '.join(map(str, value)) if many else value}",
    )
    if kind is bool and not many:
        return Annotated[bool | None, Parameter(help=f"default at quick: {value}")]
    return Annotated[(tuple[kind, ...] if many else kind) | None, strict]


def _converted(option, kind, many, _, tokens):
    def one(token):
        try:
            return kind(token.value)
        except ValueError:
            raise ValueError(f"{option}: {token.value!r} is no {kind.__name__}") from None

    values = tuple(map(one, tokens))
    return values if many else values[0]


def _reproduce(name, paper, size, given, out, as_json):
    if size == "quick":
        # Compiling is most of a quick run: 13.1 -> 4.0 s at this level, for 10% slower runs.
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_backend_optimization_level" not in flags:
            os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=1 {flags}".strip()
    _keep_programs()
    plot.style()  # raises without matplotlib: better now than after the run
    folder = out / name
    print(f"{name}: running at size {size}, into {folder}", file=sys.stderr, flush=True)
    options = paper.SIZES[size] | given
    reused = []

    def store(fingerprint):
        path = folder / "runs" / fingerprint[:16]
        reused.append(path.exists())
        return path

    wall = time.perf_counter()
    cpu = _cpu_seconds()
    found = paper.run(sweep=functools.partial(sweep, store=store), **options)
    results.save(found, folder / "results")
    default = all(paper.SIZES[size][option] == value for option, value in given.items())
    cost = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": _cpu_seconds() - cpu}
    made = _store.provenance(paper.__file__) | {
        unit: round(seconds, 2) for unit, seconds in cost.items()
    }
    made |= {
        "paper": name,
        "size": size,
        "options": options,
        "default": default,
        "reused": any(reused),
    }
    _write(folder / "provenance.json", made)
    code = _judge(name, out, as_json)
    for path in _draw(paper, found, folder):
        print(path, file=sys.stderr if as_json else sys.stdout)
    return code


def _keep_programs():
    """Keep compiled programs from run to run."""
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxdyn"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _cpu_seconds():
    """Return the seconds that all cores have spent on this process and its children so far."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _judge(name, out, as_json):
    """Write and print the verdicts on a paper's saved results; 1 where one is not as expected."""
    paper = papers.load(name)
    folder = out / name
    verdicts = verify(paper.CLAIMS, _saved(name, out))
    _write(folder / "verdicts.json", [verdict._asdict() for verdict in verdicts])
    if as_json:
        print(json.dumps({name: [verdict._asdict() for verdict in verdicts]}))
    else:
        ref = paper.REFERENCE
        print(f"\n{ref.title} ({ref.authors}, {ref.year})\n")
        for v in verdicts:
            print(f"  {v.word:10} {v.error:9.3g} < {v.below:<9.3g} {v.statement}")
        print(
            f"\n{sum(v.expected for v in verdicts)} of {len(verdicts)} claims as expected; numbers in {folder}"
        )
    # Other options than a size's own may leave a claim undecided; the sizes must decide all.
    default = json.loads((folder / "provenance.json").read_text())["default"]
    return int(not all(v.expected or (v.holds is None and not default) for v in verdicts))


def _draw(paper, found, folder):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    paths = [folder / f"figure.{kind}" for kind in ("png", "svg")]
    with plot.style():
        figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
        paper.plot(found, axes)
        for path in paths:
            figure.savefig(path, dpi=160)
        plt.close(figure)
    return paths


def _saved(name, out) -> Any:
    papers.load(name)
    if _store.read_record(out / name / "results") is None:
        raise ValueError(
            f"name: no results of {name!r} in {str(out)!r}; run it first: jaxdyn run {name}"
        )
    return results.open(out / name / "results")


def _write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1))
    part.replace(path)


if __name__ == "__main__":
    main()
