"""The site in two languages: which page is the other one's counterpart, how one gets there, anchors, the theme's words.

A page of the Chinese course lies in a folder zh/ (notebooks/zh/01_installation.ipynb) or ends in .zh-CN
(README.zh-CN.md). Each has an English counterpart; not every English page has a Chinese one.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.transforms import SphinxTransform

ENGLISH, CHINESE = "en", "zh-CN"
NAMES = {ENGLISH: "English", CHINESE: "中文"}
SUFFIX = ".zh-CN"
ORDER = (
    "README",
    "notebooks/README",
    "notebooks/[0-9]*",
    "docs/*",
    "docs/app/*",
    "minimax_nb/demo/MODEL_CARD",
    "CONTRIBUTING",
)

# What Sphinx and Furo write in English on each page, as it stands in their HTML, and in Chinese
WORDS = {
    ">Skip to content<": ">跳到正文<",
    ">Back to top<": ">回到顶部<",
    '"Toggle site navigation sidebar"': '"打开或关闭目录"',
    '"Toggle table of contents sidebar"': '"打开或关闭本页目录"',
    '"Toggle Light / Dark / Auto color theme"': '"切换浅色、深色或自动配色"',
    '"Search"': '"搜索"',
    "<span>Next</span>": "<span>下一篇</span>",
    "<span>Previous</span>": "<span>上一篇</span>",
    '"title">Home<': '"title">首页<',
    '"Link to this heading"': '"本节的链接"',
    "<title>Menu</title>": "<title>菜单</title>",
    "<title>Contents</title>": "<title>目录</title>",
    "<title>Expand</title>": "<title>展开</title>",
    "<title>Light mode</title>": "<title>浅色</title>",
    "<title>Dark mode</title>": "<title>深色</title>",
    "<title>Auto light/dark, in light mode</title>": "<title>自动，现为浅色</title>",
    "<title>Auto light/dark, in dark mode</title>": "<title>自动，现为深色</title>",
}
MORE_WORDS = ((r"(?<=>)\s*On this page\s*(?=<)", "本页内容"), (r"Made with\s+(<a [^>]*>Furo</a>)", r"由\1制作"))


def language(page: str) -> str:
    """Of a page, by its name without suffix."""
    return CHINESE if page.endswith(SUFFIX) or "zh" in page.split("/")[:-1] else ENGLISH


def english(page: str) -> str:
    """The name of a page's English counterpart; of an English page, its own."""
    return page.removesuffix(SUFFIX).replace("/zh/", "/")


def counterpart(page: str, pages: Iterable[str]) -> str | None:
    """The same page in the other language, if there is one."""
    return next((other for other in pages if other != page and english(other) == english(page)), None)


def contents(pages: Iterable[str], root: str) -> str:
    """The contents of the site, as MyST: all pages but the first, a list for each language."""
    lists = ""
    for tag, name in NAMES.items():
        listed = sorted((page for page in pages if language(page) == tag and page != root), key=place)
        if listed:
            lists += "\n".join(["\n\n```{toctree}", ":hidden:", f":caption: {name}", "", *listed, "```\n"])
    return lists


def place(page: str) -> tuple[int, str]:
    """Where a page stands in the contents of its language; one that ORDER does not know stands last."""
    known = (at for at, pattern in enumerate(ORDER) if fnmatch(english(page), pattern))
    return next(known, len(ORDER)), page


def with_switch(body: str, link: str, other: str) -> str:
    """A page's HTML, above it the link to its counterpart in the language `other`."""
    style = "float: right; margin: 0 0 0 1em"
    attributes = f'href="{escape(link)}" hreflang="{other}" lang="{other}" rel="alternate"'
    return f'<p class="language-switch" style="{style}"><a {attributes}>{NAMES[other]}</a></p>\n{body}'


def own_first(navigation: str, tag: str) -> str:
    """The HTML of the contents, with the list of the language `tag` above the other."""
    before, *lists = re.split(r'(?=<p class="caption")', navigation)
    return before + "".join(sorted(lists, key=lambda each: f">{NAMES[tag]}<" not in each.partition("</p>")[0]))


def translate_theme(path: Path) -> None:
    """Put the theme's own words into Chinese, in a page that Sphinx has written."""
    html = path.read_text(encoding="utf-8")
    for said, chinese in WORDS.items():
        html = html.replace(said, chinese)
    for pattern, chinese in MORE_WORDS:
        html = re.sub(pattern, chinese, html)
    path.write_text(html, encoding="utf-8")


class Anchors(SphinxTransform):
    """Makes MyST know the anchors <a id="name"></a>, so that [links](#name) and [links](page.md#name) lead to them.

    Alone above a heading, the anchor becomes an id of the section that begins there.
    """

    default_priority = 870  # after MyST gave the headings' own anchors (700), before it resolves the links (879)

    def apply(self, **kwargs) -> None:
        for raw in list(self.document.findall(nodes.raw)):
            if found := re.fullmatch(r'<a id="([\w-]+)">', raw.astext().strip()):
                self.note(found[1], raw)

    def note(self, name: str, raw: nodes.raw) -> None:
        title, paragraph = "", raw.parent
        section = paragraph.next_node(nodes.section, ascend=True, siblings=True, descend=False)
        alone = isinstance(paragraph, nodes.paragraph) and all(isinstance(each, nodes.raw) for each in paragraph)
        if alone and section is not None:
            title = section[0].astext()
            section["ids"] += [] if name in section["ids"] else [name]
            paragraph.parent.remove(paragraph)
        slugs = getattr(self.document, "myst_slugs", {})  # the same table as in the environment, for other pages
        slugs.setdefault(name, (raw.line, name, title))
