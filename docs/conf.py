"""How Sphinx builds these pages: `make docs`, into docs/_build."""

import os
import sys
from pathlib import Path

import latex2mathml.converter

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

# Notebooks and examples run while the pages are built, here as in the kernels that Jupyter starts.
os.environ.setdefault("JAXDYN_FAST", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

import house  # noqa: E402

import jaxdyn  # noqa: E402

project = "jaxdyn"
author = copyright = "The jaxdyn authors"
release = version = jaxdyn.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build", "conf.py", "house.py", "pictures.py"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "remove"  # progress bars
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

add_module_names = False
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"jaxdyn {release}"
html_static_path = ["_static"]
html_css_files = ["jaxdyn.css"]
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
templates_path = []


def write_math(convert, display):
    """Return what writes a formula as MathML, which browsers set themselves: no script, nothing to
    load."""

    def visit(translator, node):
        markup = convert(node.astext(), display=display)
        translator.body.append(
            f'<div class="math">{markup}</div>' if display == "block" else markup
        )
        raise house.SkipNode

    return visit, None


def setup(app):
    """Add what is ours: formulas, docstrings and the pages of the catalogue."""
    convert = latex2mathml.converter.convert
    app.add_html_math_renderer(
        "mathml", write_math(convert, "inline"), write_math(convert, "block")
    )
    app.connect("autodoc-process-docstring", house.docstring)
    app.connect("autodoc-process-signature", house.signature)
    app.connect("autodoc-skip-member", house.skip)
    house.write_catalogue(DOCS / "papers")
    house.copy_notebooks(ROOT / "notebooks", DOCS / "notebooks")


html_math_renderer = "mathml"
