"""Analysis of recorded runs: saddles, groups of examples, averages, tangents."""

from jaxdyn.analysis.averages import box_average
from jaxdyn.analysis.groups import opposing_groups
from jaxdyn.analysis.lyapunov import tangent_growth, with_tangents
from jaxdyn.analysis.saddles import (
    plateaus,
    project_to_saddle,
    saddle_records,
    saddle_table,
)

__all__ = [
    "box_average",
    "opposing_groups",
    "plateaus",
    "project_to_saddle",
    "saddle_records",
    "saddle_table",
    "tangent_growth",
    "with_tangents",
]
