"""Draw the pictures of a paper for these pages from saved results, in few colours to be small."""

import argparse
from pathlib import Path

from PIL import Image

from jaxdyn import papers

GALLERY = Path(__file__).parent / "gallery"
COLOURS = 64
WIDTH = 900

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("paper")
parser.add_argument("--results", type=Path, required=True)
options = parser.parse_args()

for old in GALLERY.glob(f"{options.paper}-*.png"):
    old.unlink()
for experiment in papers.load(options.paper).EXPERIMENTS:
    figure = options.results / options.paper / experiment.name / "figure.png"
    path = GALLERY / f"{options.paper}-{experiment.name}.png"
    with Image.open(figure) as picture:
        height = round(picture.height * WIDTH / picture.width)
        small = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)
