"""Full-text search in English and in Chinese, by Sphinx's own index: it needs no server, and no network.

Chinese has no spaces. So a Chinese word is looked up by its pairs of neighbouring characters. A page with 旋转矩阵
stands in the index under 旋转, 转矩 and 矩阵, and under each character alone. English is split and stemmed as Sphinx
does it. search.js does the same with what somebody looks for.
"""

import re
from pathlib import Path

from sphinx.search.en import SearchEnglish

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
RUNS = re.compile(rf"[{HAN}]+|[^\W{HAN}]+")
CHINESE = re.compile(f"[{HAN}]")
MARK = "__"  # behind a word with less than three letters: of those, Sphinx's search does not ask for all


class EnglishAndChinese(SearchEnglish):
    """Its language_name stays English, because Sphinx 9.0.4 makes the name of the browser's stemmer of it."""

    lang = "en+zh"
    js_splitter_code = Path(__file__).with_name("search.js").read_text(encoding="utf-8")

    def split(self, input: str) -> list[str]:
        """The words of a page's text."""
        return [word for run in RUNS.findall(input) for word in (pieces(run) if CHINESE.match(run) else [run])]

    def stem(self, word: str) -> str:
        stem = super().stem(word)
        return stem if len(stem) > 2 else stem + MARK

    def word_filter(self, word: str) -> bool:
        return super().word_filter(word.removesuffix(MARK))


def pieces(run: str) -> list[str]:
    """The pairs of a run of Chinese characters, and its characters."""
    return [run[at : at + 2] for at in range(len(run) - 1)] + list(run)
