"""Sphinx's configuration of the site: the pages of this repository and the notebooks with their committed outputs.

    sphinx-build -E -W -c docs/publish . build/site

Nothing is executed and nothing comes from a network: formulas are MathML, links to files of the repository downloads.
English and Chinese pages are one site: languages.py says which belong together, search.py how both are found.
"""

import json
import shutil
import sys
from pathlib import Path

from docutils import nodes

sys.path.insert(0, str(Path(__file__).parent))
import languages  # noqa: E402
from captions import describe  # noqa: E402
from formulas import mathml  # noqa: E402
from search import EnglishAndChinese  # noqa: E402

project = "MiniMax-Text-01 on Transformers"
extensions = ["myst_nb"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/app/*.ipynb", "minimax_nb/demo/MODEL_CARD*.md"]
include_patterns += [f"notebooks/{folder}*.{kind}" for folder in ("", "zh/") for kind in ("md", "ipynb")]
exclude_patterns = [".*", "**/.*", "build", "runs", "wheels", "notebooks/_work", "notebooks/results"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = project
html_show_sphinx = html_show_copyright = False
html_copy_source = html_use_index = False
html_math_renderer = "mathml"
html_search_language = EnglishAndChinese.lang


def prepare(app, name, source):
    """Contents for the first page, alt text for the notebooks' pictures."""
    if name == root_doc:
        source[0] += languages.contents(app.env.found_docs, root_doc)
    if app.env.doc2path(name).suffix == ".ipynb":
        notebook = json.loads(source[0])
        describe(notebook["cells"])
        source[0] = json.dumps(notebook)


def bilingual(app, name, template, context, doctree):
    """A page says in which language it is, and leads to the other one. What leads on stays in its language."""
    if not doctree:
        return  # the search's page
    pages, tag = app.env.found_docs, languages.language(name)
    context["language"] = tag
    context["furo_navigation_tree"] = languages.own_first(context["furo_navigation_tree"], tag)
    _, before, after = app.builder.relations[name]
    for way, page in (("prev", before), ("next", after)):
        if page and languages.language(page) != tag:
            context[way] = None
    if other := languages.counterpart(name, pages):
        context["body"] = languages.with_switch(context["body"], context["pathto"](other), languages.language(other))
    if tag != languages.ENGLISH:
        context["master_doc"] = languages.counterpart(root_doc, pages) or root_doc


def formula(translator, node):
    translator.body.append(mathml(node.astext(), block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def finish(app, error):
    if error:
        return
    site = Path(app.outdir)
    shutil.copy(site / f"{root_doc}.html", site / "index.html")
    for page in app.env.found_docs:
        if languages.language(page) == languages.CHINESE:
            languages.translate_theme(site / f"{page}.html")


def setup(app):
    app.connect("source-read", prepare)
    app.connect("html-page-context", bilingual, priority=900)  # after Furo's own
    app.connect("build-finished", finish)
    app.add_transform(languages.Anchors)
    app.add_search_language(EnglishAndChinese)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
