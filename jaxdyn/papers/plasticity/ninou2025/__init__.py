"""Curl descent: non-gradient learning dynamics with sign-diverse plasticity (Ninou, Kadmon,
Cayco-Gajic, 2025).

A two-layer student of a teacher with one output descends with the sign turned for all weights from
some inputs (D_1) or hidden units (D_2): a field with a curl.  Solutions stay stable while the lower
edge of |W_2|^2 D_1 + W_1^T D_2 W_1 is positive, in networks that expand enough whatever inputs are
turned; beyond it learning is chaotic.  A turned hidden unit makes a centre of the saddle at the
origin, which is then left at once.  Norms are kept, array by array; all is in float64.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.plasticity.ninou2025 import chaos, learning, spectra, units

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Curl descent: non-gradient learning dynamics with sign-diverse plasticity",
    authors="Ninou, Kadmon, Cayco-Gajic",
    year=2025,
    arxiv="2510.02765",
    name="Curl descent",
    reproduces="plasticity of mixed sign: edges of free sums, chaos beyond them, saddles that are "
    "left at once",
)

EXPERIMENTS = (
    spectra.EXPERIMENT,
    learning.EXPERIMENT,
    chaos.EXPERIMENT,
    units.ESCAPE,
    units.CIRCLES,
)
