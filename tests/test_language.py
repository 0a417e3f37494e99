"""English or Chinese: the catalogue is whole, nothing that a reader sees goes past it, and Chinese pages are Chinese.

Screenshots of Chinese widgets are kept in runs/browser/, those of Chinese figures in runs/figures/.
"""

import ast
import html
import io
import logging
import re
import sys
import threading
from functools import cache
from pathlib import Path
from string import Formatter

import matplotlib

matplotlib.use("agg")

import pytest
import test_plots
import test_plots_bench
import test_plots_decode
import test_plots_lightning
import test_plots_scaling
import test_plots_training
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from playwright.sync_api import expect
from test_browser import PICTURES, chromium  # noqa: F401
from widget_page import CHINESE as CHINESE_FONT
from widget_page import opened

from minimax_nb import language, terminal
from minimax_nb.cli import main
from minimax_nb.demo import demo_checkpoint
from minimax_nb.language import catalogue, columns, current, mark, padded, sentences, speaking, tr, use
from minimax_nb.loading import load, report
from minimax_nb.plan import plan
from minimax_nb.plots import basics, bench, decode, fonts, lightning, scaling, training
from minimax_nb.widgets import config_explorer, expert_view, head_memory, planner, playground, quiz, stepper
from minimax_nb.widgets.controls import Control
from minimax_nb.widgets.explorers.config import REPAIRS
from minimax_nb.widgets.explorers.explorer import Explorer
from minimax_nb.widgets.explorers.quiz import RIGHT
from minimax_nb.widgets.page import SAID

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minimax_nb"
CHINESE = re.compile("[\u3400-\u9fff]")
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "language.py"]
SCRIPTS = sorted((PACKAGE / "widgets").rglob("*.js"))


@pytest.fixture(autouse=True)
def english(monkeypatch):
    """Whatever a test uses, the next one begins in English."""
    monkeypatch.setattr(language, "_used", None)


# The language


def test_the_nearest_choice_counts(monkeypatch):
    assert current() == "en" and tr("ready") == "ready"
    monkeypatch.setenv("MINIMAX_NB_LANGUAGE", "zh_CN.UTF-8")
    assert current() == "zh" and tr("ready") == "就绪"
    use("en")
    assert current() == "en"
    with speaking("zh-CN"):
        assert (current(), language.tag()) == ("zh", "zh-CN")
        with speaking("en"):
            assert current() == "en"
        assert current() == "zh"
    assert current() == "en"


def test_an_unknown_language_is_refused_where_it_is_asked_for_and_else_english(monkeypatch, caplog):
    for ask in (use, lambda name: speaking(name).__enter__()):
        with pytest.raises(ValueError, match="give one of en, zh"):
            ask("klingon")
    monkeypatch.setenv("MINIMAX_NB_LANGUAGE", "klingon")
    with caplog.at_level(logging.WARNING, "minimax_nb"):
        assert [current(), current()] == ["en", "en"]
    assert len(caplog.messages) == 1 and "MINIMAX_NB_LANGUAGE" in caplog.text  # said once


def test_threads_speak_for_themselves():
    said, inside = {}, threading.Event()

    def speak(name: str):
        with speaking(name):
            inside.wait(5)
            said[name] = tr("ready")

    threads = [threading.Thread(target=speak, args=(name,)) for name in ("en", "zh")]
    for thread in threads:
        thread.start()
    inside.set()
    for thread in threads:
        thread.join()
    assert said == {"en": "ready", "zh": "就绪"} and tr("ready") == "ready"


def test_chinese_is_counted_in_columns_and_its_sentences_touch():
    assert [columns(text) for text in ("ab", "权重", "KV缓存")] == [2, 4, 6]
    assert padded("权重", 6) == "权重  " and padded("权重", 2) == "权重"
    assert sentences("One.", "", "Two.") == "One. Two."
    with speaking("zh"):
        assert sentences("一。", "", "二。") == "一。二。"


def test_an_unknown_text_stays_english_and_braces_without_values_stay():
    with speaking("zh"):
        assert tr("not in the catalogue: {x}", x=1) == "not in the catalogue: 1"
        assert tr("{x}") == "{x}"


# The catalogue


def literals(path: Path) -> list[str]:
    """The texts that a module marks for translation; one that is no literal could not be found."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("tr", "mark"):
            text = node.args[0]
            found += [text.value] if isinstance(text, ast.Constant) else []
            assert not isinstance(text, ast.JoinedStr), f"{path.name}, line {node.lineno}: no f-string is found again"
    return found


@cache
def said() -> dict[str, set[str]]:
    """English -> the modules that say it, as the tables of zh.toml are named; a script counts as its module."""
    found = {}
    texts = [(path, literals(path)) for path in MODULES]
    texts += [(path, SAID.findall(path.read_text(encoding="utf-8"))) for path in SCRIPTS]
    for path, lines in texts:
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for line in lines:
            found.setdefault(line, set()).add(module)
    return found


def test_the_catalogue_has_what_is_said_and_nothing_else():
    assert sorted(said().keys() ^ catalogue().keys()) == []


def test_each_text_stands_under_the_module_that_says_it():
    tables = language.tomllib.loads((PACKAGE / "zh.toml").read_text(encoding="utf-8"))
    placed = {text: name for name, table in tables.items() for text in table}
    assert sum(map(len, tables.values())) == len(placed), "a text stands twice"
    homes = {text: next(iter(modules)) if len(modules) == 1 else "shared" for text, modules in said().items()}
    assert {text: (placed[text], home) for text, home in homes.items() if placed[text] != home} == {}


@pytest.mark.parametrize("english", catalogue())
def test_a_translation_has_the_same_placeholders_and_is_chinese(english):
    chinese = catalogue()[english]
    assert fields(chinese) == fields(english)
    if re.search("[a-z]{3}", Formatter().vformat(english, (), Blank())):
        assert CHINESE.search(chinese)
    assert not re.search(r"[\u3400-\u9fff] ?[,;:!?](?![\w/])|您|\$", chinese), "punctuation is full-width, no formula"
    assert not re.search(r"[\u3400-\u9fff] [A-Za-z0-9]|[A-Za-z0-9] [\u3400-\u9fff]", chinese), "no space beside Latin"


class Blank(dict):
    def __missing__(self, name):
        return ""


def fields(text: str) -> set[tuple]:
    return {(name, spec, how) for _, name, spec, how in Formatter().parse(text) if name is not None}


def test_a_wheel_has_the_catalogue():
    packed = language.tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert "zh.toml" in {path.name for each in packed["package-data"]["minimax_nb"] for path in PACKAGE.glob(each)}


# Nothing goes past it

READ = [*(PACKAGE / "widgets").rglob("*.py"), *(PACKAGE / "plots").rglob("*.py"), PACKAGE / "planner" / "words.py"]
PROSE = re.compile(r"[A-Za-z]{2,}[,:]? [A-Za-z]{2,}")
CODE = re.compile(
    r"[<>{};=]|\b\dpx\b|--|_|^(outside |center |upper |lower )|import "
)  # HTML, styles, places in a figure
ALLOWED = {  # what the model reads, names of fonts, keys of data, lines of a log
    "My order number is 845921.", "Good, I will remember that.", "What is my order number?",
    "Your order number is 845921.", "How do I make mayonnaise?", "DejaVu Sans", "Last Resort", "offset points",
    "out of memory", "SDPA by length", "KV cache", "lightning state", "matrix products", "moving and copying",
    "no font with Chinese characters, so figures have empty boxes: pip install %s",
    "no %s beside %s: its questions are in English",
}  # fmt: skip
LABELS = ("xlabel", "ylabel", "title", "label", "set_xlabel", "set_ylabel", "set_title", "set_label")


@pytest.mark.parametrize("path", READ, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_prose_is_written_past_tr(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            left_out |= set(ast.walk(body[0]))  # a docstring
        constant = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
            "TEXT",
            "MOVING",
            "START",
            "__all__",
        )
        if isinstance(node, ast.Raise) or constant:
            left_out |= set(ast.walk(node))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("tr", "mark"):
            left_out |= set(ast.walk(node.args[0]))
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    prose = [node.value for node in texts if node not in left_out and PROSE.search(node.value)]
    assert [text for text in prose if not CODE.search(text) and text not in ALLOWED] == []

    labels = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg in LABELS]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    labels += [node.args[0] for node in calls if getattr(node.func, "attr", "") in LABELS]
    bare = [ast.unparse(label) for label in labels if isinstance(label, ast.Constant | ast.JoinedStr)]
    assert [label for label in bare if re.search("[a-z]{3}", re.sub(r"\{[^}]*\}", "", label))] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_prose_of_a_script_is_written_past_tr(path):
    strings = re.finditer(r"""//.*|\btr\(\s*"[^"]*"|"([^"\n]*)"|`([^`]*)`""", path.read_text(encoding="utf-8"))
    texts = [re.sub(r"\$\{[^}]*\}", "", match[1] or match[2] or "") for match in strings]
    prose = [text for text in texts if re.search("[A-Z][a-z]|[a-z]{2,} [a-z]{2,}", text)]
    assert [text for text in prose if "mmnb-" not in text and text not in ("Enter", "Escape")] == []


# What stays English


def test_the_report_of_a_plan_stays_english():
    use("zh")
    found = plan(demo_checkpoint(), gpus=1, gpu_memory=8, context=2048)
    assert "fits: " in found.report and not CHINESE.search(found.report)


def test_the_command_line_stays_english(capsys, monkeypatch):
    monkeypatch.setattr(
        sys.modules["minimax_nb.plan"], "plan", lambda *_, **__: print(tr("ready"), tr("kept")) or 1 / 0
    )
    use("zh")
    with pytest.raises(ZeroDivisionError):
        main(["plan", "--gpus", "8", "--gpu-memory", "80"])
    assert capsys.readouterr().out == "ready kept\n"


def test_an_exception_stays_english(tmp_path):
    with speaking("zh"), pytest.raises(ValueError) as mistake:
        load(tmp_path)
    assert not CHINESE.search(str(mistake.value))


# load() and its progress


def test_the_line_of_load_is_chinese_and_its_data_are_not(demo_model, capsys):
    folder = demo_model[0].name_or_path
    with speaking("zh"):
        model, _ = load(folder)
    line = capsys.readouterr().out.strip()
    assert line == report(model).line and "闪电注意力" in line and "缓存已修复：长度、" in line
    assert english_words(line) <= {"CPU", "fp32", "sdpa", "torch"}
    assert report(model)[:6] == report(demo_model[0])[:6]


def test_progress_is_written_over_by_columns(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(terminal.sys, "stderr", stream := Terminal())
    monkeypatch.setattr(terminal, "PATIENCE", -1.0)
    with speaking("zh"), terminal.token_progress(2000) as show:
        show(1000)
        show(1999)
    first, second, blank = stream.getvalue().split("\r")[1:4]
    assert "2,000个词元中的1,000个" in first
    assert columns(second) == columns(first) and blank == " " * columns(first)


# Figures

FIGURES = {f"basics.{name}": call for name, call in test_plots.FIGURES.items()}
FIGURES |= {f"bench.{name}": (getattr(bench, name), rows) for name, rows in test_plots_bench.FIGURES.items()}
FIGURES |= {f"decode.{name}": call for name, call in test_plots_decode.FIGURES.items()}
FIGURES |= {f"lightning.{name}": call for name, call in test_plots_lightning.FIGURES.items()}
FIGURES |= {f"scaling.{name}": call for name, call in test_plots_scaling.FIGURES.items()}
FIGURES["training.losses"] = (training.losses, test_plots_training.RUNS)
NAMES = {"GPU", "GB", "KV", "ms", "logits", "softmax", "eager", "SDPA", "FlashAttention", "nat"}


def test_every_figure_is_drawn_below():
    drawn = {function for function, *_ in FIGURES.values()}
    for module in (basics, bench, decode, lightning, scaling, training):
        functions = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
        made = [each for each in functions if getattr(each, "__annotations__", {}).get("return") is Figure]
        assert [each.__name__ for each in made if each not in drawn] == []


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_chinese_and_has_no_empty_box(name):
    function, *arguments = FIGURES[name]
    with speaking("zh"):
        figure = function(*arguments)
    picture = ROOT / "runs" / "figures" / f"zh_{name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=60)  # drawn later than it was made, as a notebook does
    texts = [text.get_text() for text in figure.findobj(Text)]
    theirs = english_words(repr(arguments))  # names that the caller gave
    words = english_words(" ".join(re.sub(r"\$[^$]*\$", "", text) for text in texts))  # 10 to some power is a formula
    assert words - theirs <= NAMES
    alone = ("basics.tokens", "basics.traps", "scaling.turns")  # these have no words of their own
    assert name in alone or any(map(CHINESE.search, texts))


@pytest.mark.filterwarnings("error:Glyph")
def test_chinese_stands_beside_a_formula(tmp_path):
    with speaking("zh"):
        basics.parity({"只改名，误差$x^{2}$": [0.1, 0.3], "转换后": [1e-7, 1e-6]}, 1e-5).savefig(tmp_path / "a.png")
    english = basics.parity({"只改名": [0.1, 0.3]}, 1e-5)
    assert english.axes[0].xaxis.label.get_fontfamily() == ["sans-serif"]  # Chinese has left nothing behind
    with pytest.raises(UserWarning, match="Glyph"):  # and matplotlib's own font has no Chinese
        english.savefig(tmp_path / "b.png")


@pytest.mark.filterwarnings("error:Glyph")
def test_chinese_tokens_are_drawn_in_english_figures_too(tmp_path):
    figure = basics.tokens(["èĽĭé»Ħ", "Ġ½"], [400, 5], [])
    figure.savefig(tmp_path / "tokens.png")
    assert [text.get_text() for text in figure.axes[0].texts[::2]] == ["蛋黄", "Ġ½"]


def test_without_the_font_another_one_is_taken_or_a_line_says_so(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "PACKAGE", "no_such_fonts")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    for cached in (fonts.chinese, fonts.packaged):
        monkeypatch.setattr(fonts, cached.__name__, cached.__wrapped__)
    with speaking("zh"), caplog.at_level(logging.WARNING, "minimax_nb"):
        assert fonts.settings() == {}
    assert "pip install no-such-fonts" in caplog.text


# Widgets


class Waiting(Explorer):
    """Speaks from a thread, when it is told to."""

    title, controls = mark("Step"), (Control("step", mark("Step"), 0, low=0, high=9),)

    def __init__(self):
        self.go = threading.Event()
        super().__init__()

    def draw(self) -> str:
        return f"<p>{tr('Step')}</p>"

    def describe(self) -> str:
        return tr("Step")

    def run(self):
        self.go.wait(10)
        yield tr("reading the weights")

    def keep(self, result) -> None:
        raise AssertionError(result)


def test_a_widget_keeps_the_language_in_which_it_was_made():
    """In threads too, and when a page or another cell drives it after the language has changed."""
    with speaking("zh"):
        chinese = Waiting()
    english, heard = Waiting(), []
    chinese.changed = lambda: heard.append(chinese.status)
    for each in (chinese, english):
        each.start()
        each.go.set()
        each.wait(10)
    use("zh")
    english.set("step", 99)
    use("en")
    chinese.set("step", 99)
    assert heard[:3] == ["正在计算……", "正在读取权重", "完成"]
    assert chinese.status == "出错：步是99：请给出0到9之间的整数" and chinese.text == "步"
    assert english.status == "error: Step is 99: give a whole number from 0 to 9" and english.text == "Step"


def test_what_follows_from_a_status_does_not_hang_on_its_words(demo_model):
    with speaking("zh"):
        state = playground(*demo_model).playground
        assert state.status == "就绪"
        state.set("temperature", 9)
        assert state.status == "出错：温度是9：请给出0到2之间的数"
        state.set("temperature", 0)
        assert state.status == "就绪"  # an error that is mended does not stay
        waiting = Waiting()
        assert [line[:2] for line in waiting.about()] == [
            "步，",
            "步：",
        ]  # and no status
        waiting.set("step", 99)
        assert waiting.about()[-1].startswith("状态栏：出错")


def test_code_to_copy_explains_itself_in_chinese(loaded, monkeypatch):
    with speaking("zh"):
        state = playground(*loaded).playground
        state.settings |= {"max_new_tokens": 2}
        monkeypatch.setattr(loaded[0], "name_or_path", "")
        state.send("a")
        state.wait()
    assert "# 换成你的" in state.code


QUESTION = """
[[01]]
en = "0123456789ab"
ask = "{0}为什么？"
right = "b"
a = ["{0}甲", "{0}不是甲。"]
b = ["{0}乙", "{0}正是乙。"]
c = ["{0}丙", "{0}不是丙。"]
"""


def test_a_quiz_is_read_in_its_language_and_falls_back_to_english(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quiz.toml").write_text(QUESTION.format("E"), encoding="utf-8")
    with speaking("zh"), caplog.at_level(logging.WARNING, "minimax_nb"):
        assert "E为什么" in quiz("01").explorer.text and "quiz.zh.toml" in caplog.text
        (tmp_path / "quiz.zh.toml").write_text(QUESTION.format("Z"), encoding="utf-8")
        caplog.clear()
        state = quiz("01").explorer
    assert caplog.messages == [] and "E" not in state.text
    state.set("1", 1)
    assert state.status == "1 b: 对。Z正是乙。1题中答了1题，答对1题。"
    assert f"b) Z乙 <- {catalogue()[RIGHT]}Z正是乙。" in state.text and "quiz.zh.toml" in state.text
    assert "E为什么" in quiz("01").explorer.text


# In a browser

SEEN = r"""() => [...document.querySelectorAll("section, section *")].flatMap((each) => [
    each.ariaLabel, each.title, each.ariaValueText,
    ...[...each.childNodes].filter((inner) => inner.nodeType === Node.TEXT_NODE).map((text) => text.textContent),
]).filter(Boolean).join("\n")"""
TERMS = {"Top", "top", "Enter", "Shift", "Esc", "Escape", "Ctrl", "Cmd", "Mac", "Tab", "GPU", "CUDA", "GB", "KV"}
PRODUCTS = {"JupyterLab", "Transformers", "RoPE", "float64", "config", "json", "proj", "default"}
TERMS |= {"MiniMax", "Text", "bf16", "int8", "fp32", "softmax", "dtype", "exp"}  # names, keys and flags


def english_words(text: str) -> set[str]:
    return set(re.findall("[A-Za-z][A-Za-z0-9]+", text))


def seen(page, name: str) -> set[str]:
    """The English words on the page, in labels for screen readers too; a screenshot is kept."""
    page.evaluate("document.fonts.ready.then(() => 0)")
    page.locator("section").screenshot(path=PICTURES / f"zh_{name}.png")
    assert page.locator("section").get_attribute("lang") == "zh-CN"
    return english_words(page.evaluate(SEEN))


def test_the_playground_is_chinese(chromium, demo_model):  # noqa: F811
    PICTURES.mkdir(parents=True, exist_ok=True)
    with speaking("zh"):
        view = playground(*demo_model)
    with opened(chromium, view, theme=CHINESE_FONT) as page:
        status = page.get_by_role("status")
        page.get_by_role("button", name="复制为代码").click()
        expect(status).to_have_text("还没有可复制的内容：请发送一条消息")
        page.get_by_label("温度").fill("1.2")
        page.get_by_label("温度").blur()
        page.get_by_label("消息").fill("How do I make pesto?")
        page.get_by_role("button", name="发送").click()
        expect(status).to_have_text(re.compile("^完成：.*随机种子"))
        view.playground.set("max_new_tokens", 10_000)
        page.get_by_label("消息").fill("And again, at length?")
        page.get_by_role("button", name="发送").click()
        page.get_by_role("button", name="停止").click()
        expect(status).to_have_text(re.compile("^(已停止|完成)："))
        state = view.playground
        model_words = english_words(repr((state.messages, state.tokens, state.candidates, state.code)))
        assert seen(page, "playground") - model_words <= TERMS
    still = view._repr_mimebundle_()[0]["text/html"]
    assert english_words(html.unescape(re.sub("<[^>]*>", " ", still))) - model_words <= TERMS | PRODUCTS
    assert still.startswith('<div lang="zh-CN">')


def test_the_pictures_of_all_explorers_are_chinese(demo_model):
    model, tokenizer = demo_model
    folder = Path(model.name_or_path)
    with speaking("zh"):
        views = [planner(), head_memory(tokenizer, model), expert_view(model, tokenizer)]
        views.append(config_explorer(demo_checkpoint(), folder))
    views[2].explorer.start()
    views[2].explorer.wait()
    for view in views:
        data, state = view._repr_mimebundle_()[0], view.explorer
        text = html.unescape(re.sub("<[^>]*>", " ", data["text/html"] + view.title + view.hint + view.action))
        text += " ".join(each["label"] for each in view.controls) + data["text/plain"] + state.status
        read = [state.values.get("text", "")] + [tokenizer.decode([token]) for token in range(len(tokenizer))]
        keys = english_words(repr((state.config(()), state.config(tuple(REPAIRS))))) if view is views[3] else set()
        assert english_words(text) - english_words(" ".join(read)) - keys <= TERMS | PRODUCTS


@pytest.mark.parametrize("made", [stepper, lambda: quiz("01")], ids=["stepper", "quiz"])
def test_an_explorer_is_chinese(chromium, made, monkeypatch, tmp_path, request):  # noqa: F811
    PICTURES.mkdir(parents=True, exist_ok=True)
    name = request.node.callspec.id
    (tmp_path / "quiz.zh.toml").write_text(QUESTION.format(""), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with speaking("zh"):
        view = made()
    with opened(chromium, view, theme=CHINESE_FONT) as page:
        if name == "quiz":
            page.get_by_role("button", name="a) 甲").click()
            expect(page.get_by_role("status")).to_contain_text("不太对。不是甲。")
        else:
            page.get_by_role("slider").first.press("ArrowRight")
        assert seen(page, name) <= TERMS
        page.evaluate("window.free = new Promise(() => {}), 0")
        page.get_by_role("button", name="重置").click()
        page.get_by_role("button", name="重置").click()
        expect(page.get_by_text("Jupyter内核正忙")).to_be_visible()
