"""What was saved, shown: a static site of all papers, a page with sliders, the table of records.

The site needs no server and asks nothing of the network: pages are single files beside their
pictures.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdyn import papers
from jaxdyn.report import _pages
from jaxdyn.report._charts import charts
from jaxdyn.report._explore import exploration
from jaxdyn.report._record import record, table
from jaxdyn.report._saved import Ran, Saved, counts, damaged, read, write

if TYPE_CHECKING:
    import xarray

__all__ = [
    "Ran",
    "Saved",
    "charts",
    "counts",
    "exploration",
    "read",
    "record",
    "site",
    "table",
    "write",
]


def site(
    out: Path,
    *,
    results: Path = Path("results"),
    names: Sequence[str] = (),
    tables: "Mapping[str, xarray.Dataset]" = {},
) -> list[Path]:
    """Write the site of what `jaxdyn run` saved in `results` into `out`, and return its pages, the
    gallery first.

    It shows all papers, or those named; `tables` of some become pages with sliders.  Raises
    ValueError for a name that is no paper, and where `out` holds anything but an earlier site.
    """
    front = out / "index.html"
    if (
        out.exists()
        and any(out.iterdir())
        and not (front.exists() and "jaxdyn report" in front.read_text())
    ):
        raise ValueError(f"out: {str(out)!r} holds other files; pass a new folder")
    found = [
        _with_figures(read(name, results), out / "figures") for name in names or papers.names()
    ]
    all_saved = sorted(
        found, key=lambda saved: bool(saved.trouble)
    )  # what there is to see comes first
    pages = [front]
    write(front, _pages.gallery(all_saved, tables))
    for i, saved in enumerate(all_saved):
        near = [all_saved[j] if 0 <= j < len(all_saved) else None for j in (i - 1, i + 1)]
        pages.append(out / f"{saved.name}.html")
        write(pages[-1], _pages.paper(saved, near, saved.name in tables))
        if saved.name in tables:
            pages.append(out / "explore" / f"{saved.name}.html")
            nav = f'<a href="../index.html"><strong>jaxdyn</strong></a> <a href="../{saved.name}.html">{saved.name}</a>'
            write(pages[-1], exploration(tables[saved.name], nav=nav))
    return pages


def _with_figures(saved, folder):
    """Copy the figures of a paper; an experiment without one that can be read counts as damaged."""
    ran = tuple(one if one.trouble else _with_figure(saved.name, one, folder) for one in saved.ran)
    saved = saved._replace(ran=ran)
    if saved.whole:
        _draw_thumbnail(saved.name, saved.whole[0], folder)
    return saved


def _with_figure(name, ran, folder):
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{name}-{ran.experiment.name}"
    try:
        with Image.open(ran.folder / "figure.png") as figure:
            figure.verify()
        for kind in ("png", "svg"):
            shutil.copyfile(ran.folder / f"figure.{kind}", f"{copy}.{kind}")
    except OSError as error:
        return damaged(ran, error)
    return ran


def _draw_thumbnail(name, ran, folder):
    from PIL import Image

    with Image.open(ran.folder / "figure.png") as figure:
        small = figure.convert("RGB")
    small.thumbnail((480, 480), Image.Resampling.LANCZOS)
    small.save(folder / f"{name}.webp", quality=82, method=6)
