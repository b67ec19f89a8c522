"""What was saved, shown: a static site of all papers, a page with sliders, the README's table.

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
from jaxdyn.report._saved import Saved, counts, damaged, read, write

if TYPE_CHECKING:
    import xarray

__all__ = ["Saved", "charts", "counts", "exploration", "read", "record", "site", "table", "write"]


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
    found = [_with_figure(read(name, results), out / "figures") for name in names or papers.names()]
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


def _with_figure(saved, folder):
    """Copy a paper's figure and draw its thumbnail; without a figure that can be read its results
    count as damaged."""
    from PIL import Image

    if saved.trouble:
        return saved
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for kind in ("png", "svg"):
            shutil.copyfile(saved.folder / f"figure.{kind}", folder / f"{saved.name}.{kind}")
        with Image.open(saved.folder / "figure.png") as figure:
            small = figure.convert("RGB")
            small.thumbnail((480, 480), Image.Resampling.LANCZOS)
            small.save(folder / f"{saved.name}.webp", quality=82, method=6)
    except OSError as error:
        return damaged(saved, error)
    return saved
