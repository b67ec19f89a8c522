"""The bar that shows how far a run, a sweep or an animation is."""

import sys
from typing import Any

__all__ = ["progress_bar"]


def progress_bar(total: int, unit: str, shown: bool | None = None, name: str | None = None) -> Any:
    """Return a tqdm bar, by default shown on terminals and in notebooks only."""
    from tqdm import tqdm

    if shown is None and "ipykernel" in sys.modules:
        shown = True
    return tqdm(total=total, unit=unit, desc=name, disable=None if shown is None else not shown)
