"""How `make book` builds the website: the notebooks as they are committed, and the module's reference."""

project = "dclose_nb"
author = "the authors of dclose_nb"
extensions = [
    "myst_nb",
    "sphinx_external_toc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
include_patterns = ["*.md", "data/README.md", "docs/*.md", "notebooks/*.ipynb"]
external_toc_path = "docs/toc.yml"
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # their outputs are committed, and tests run them
nb_render_markdown_format = "myst"
autodoc_typehints = "none"  # the docstrings give shapes too
napoleon_google_docstring = False
html_theme = "sphinx_book_theme"
html_title = "dclose_nb"
html_theme_options = {"show_toc_level": 2, "use_download_button": False}
