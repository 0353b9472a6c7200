"""How `make book` builds the website: the notebooks as they are committed, and the module's reference.

A reader needs no network: all that a page loads lies in the book.
"""

import base64
import json
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"

project = "dclose_nb"
author = "the authors of dclose_nb"
extensions = [
    "myst_nb",
    "sphinx_external_toc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
include_patterns = ["*.md", "data/README.md", "docs/*.md", "notebooks/*.ipynb"]
external_toc_path = "docs/toc.yml"
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # their outputs are committed, and tests run them
nb_render_markdown_format = "myst"
nb_ipywidgets_js: dict[str, object] = {}  # widgets need a kernel, and a page has none
autodoc_typehints = "none"  # the docstrings give shapes too
napoleon_google_docstring = False
html_theme = "sphinx_book_theme"
html_title = "dclose_nb"
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "navbar_persistent": []}
html_css_files = ["book.css"]
html_static_path = [str(HERE / "book.css")]

# One file of MathJax, with its glyphs in it, from a package that carries MathJax.
mathjax_path = "tex-svg.js"
if carrier := find_spec("sphinx-mathjax-offline"):
    html_static_path += [
        f"{folder}/static/mathjax/tex-svg.js" for folder in carrier.submodule_search_locations
    ]


def show_explorer(app, name, source):
    """Show a film where notebook 12 has the explorer, which answers only with a kernel."""
    if name != "notebooks/12_explorer":
        return
    film = HERE / "explorer.gif"
    app.env.note_dependency(str(film))
    notebook = json.loads(source[0])
    for k, cell in enumerate(notebook["cells"]):
        if any(WIDGET in output.get("data", {}) for output in cell.get("outputs", [])):
            picture = base64.b64encode(film.read_bytes()).decode()
            cell["outputs"] = [
                {"output_type": "display_data", "metadata": {}, "data": {"image/gif": picture}}
            ]
            text = (
                "*The explorer needs a kernel, and this page has none. The film shows it on another photo.*"
            )
            notebook["cells"].insert(
                k + 1, {"cell_type": "markdown", "id": "film", "metadata": {}, "source": text}
            )
            break
    source[0] = json.dumps(notebook)


def setup(app):
    app.connect("source-read", show_explorer)
