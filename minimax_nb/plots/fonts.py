"""The font of Chinese figures: Noto Sans SC, from a package of the lab extra (SIL Open Font License 1.1).

matplotlib's own font has no Chinese characters and draws framed signs in their place.
"""

import importlib.util
import logging
from functools import cache
from pathlib import Path

from matplotlib import font_manager

from .. import language

PACKAGE, FILE = "pylopdf_fonts_zh_cn", "NotoSansSC-Regular.otf"
FALLBACK = "DejaVu Sans"  # matplotlib's own, for what the Chinese font has not


def settings() -> dict:
    """matplotlib's settings for text in the current language; nothing for English.

    The Chinese font comes first: in a label with a formula matplotlib takes the first family alone for what stands
    beside the formula.
    """
    if language.current() == "en" or not (name := chinese()):
        return {}
    return {"font.family": [name, FALLBACK]}


@cache
def chinese() -> str | None:
    """The family that draws Chinese, of the package or another one of this machine; None and a line where none does."""
    if name := packaged():
        return name
    fonts = (font for font in font_manager.fontManager.ttflist if "Last Resort" not in font.name)
    name = next((font.name for font in fonts if font_manager.get_font(font.fname).get_char_index(ord("语"))), None)
    if name is None:
        logging.getLogger("minimax_nb").warning(
            "no font with Chinese characters, so figures have empty boxes: pip install %s", PACKAGE.replace("_", "-")
        )
    return name


@cache
def packaged() -> str | None:
    """The family of the package, made known to matplotlib; None where the package is not installed."""
    if (spec := importlib.util.find_spec(PACKAGE)) is None:
        return None
    path = Path(spec.origin).with_name(FILE)
    font_manager.fontManager.addfont(path)
    return font_manager.get_font(path).family_name
