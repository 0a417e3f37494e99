"""Sphinx's configuration of the site: the pages of this repository and the notebooks with their committed outputs.

    sphinx-build -E -W -c docs/publish . build/site

Nothing is executed and nothing comes from a network: formulas are MathML, links to files of the repository downloads.
"""

import json
import shutil
import sys
from pathlib import Path

from docutils import nodes

sys.path.insert(0, str(Path(__file__).parent))
from captions import describe  # noqa: E402
from formulas import mathml  # noqa: E402

project = "MiniMax-Text-01 on Transformers"
extensions = ["myst_nb"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/app/*.ipynb", "notebooks/*.md", "notebooks/*.ipynb"]
include_patterns += ["minimax_nb/demo/MODEL_CARD.md"]
exclude_patterns = [".*", "**/.*", "build", "runs", "wheels", "notebooks/_work", "notebooks/results"]
CONTENTS = """

```{toctree}
:hidden:
:glob:

notebooks/README
notebooks/[0-9]*
docs/*
docs/app/*
minimax_nb/demo/MODEL_CARD
CONTRIBUTING
```
"""

nb_execution_mode = "off"
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = project
html_show_sphinx = html_show_copyright = False
html_copy_source = html_use_index = False
html_math_renderer = "mathml"


def prepare(app, name, source):
    """Contents for the first page, alt text for the notebooks' pictures."""
    if name == root_doc:
        source[0] += CONTENTS
    if app.env.doc2path(name).suffix == ".ipynb":
        notebook = json.loads(source[0])
        describe(notebook["cells"])
        source[0] = json.dumps(notebook)


def formula(translator, node):
    translator.body.append(mathml(node.astext(), block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def front_page(app, error):
    if not error:
        shutil.copy(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app):
    app.connect("source-read", prepare)
    app.connect("build-finished", front_page)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
