"""The Chinese course: nothing is out of date, nothing was lost on the way, and the command says what is."""

import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import translate
from chinese_style import GLOSSARY, breaches, numbers, style
from nbformat import v4
from translation import sections
from translation.code import SHARED, chinese_code, read_strings, with_fields
from translation.outputs import Spoken, Words

ROOT = Path(__file__).parents[1]
NOTEBOOKS = translate.notebooks()
STRINGS = read_strings(ROOT / "notebooks" / "zh" / "strings.toml")


# The course as it is


def test_nothing_is_out_of_date():
    """Cells, their order, code and outputs are those of the English notebooks; each text was accepted as it is."""
    assert translate.problems() == []


@pytest.mark.parametrize("english", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_facts_and_the_style(english):
    chinese = {cell.id: cell.source for cell in nbformat.read(NOTEBOOKS[english], 4).cells}
    found = [
        f"{cell.id}: {breach}"
        for cell in nbformat.read(english, 4).cells
        if cell.cell_type == "markdown"
        for breach in breaches(cell.source, chinese[cell.id])
    ]
    assert found == []


@pytest.mark.parametrize("english", sections.PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_keeps_the_facts_and_the_style(english):
    pairs = zip(translate.parts(english), translate.parts(sections.PAGES[english]), strict=True)
    assert [f"{our.name}: {breach}" for our, their in pairs for breach in breaches(our.text, their.text)] == []


def test_the_quiz_keeps_the_style_and_its_right_answers():
    english, chinese = (tomllib.loads(path.read_text(encoding="utf-8")) for path in sections.QUIZ)
    for number, questions in english.items():
        for ours, theirs in zip(questions, chinese[number], strict=True):
            assert theirs["right"] == ours["right"] and theirs.keys() == {*ours, "en"}
            said = [theirs["ask"], *theirs["a"], *theirs["b"], *theirs["c"]]
            assert [breach for text in said for breach in style(text)] == []


def test_strings_of_code_keep_the_style():
    said = [(name, chinese) for name, table in STRINGS.items() for chinese in table.values()]
    spaced = re.compile(r"[\u3400-\u9fff] [A-Za-z]|[A-Za-z] [\u3400-\u9fff]|您")
    assert [each for each in said if spaced.search(each[1])] == []
    others = [other for entry in GLOSSARY.values() for other in entry.get("not", [])]
    assert [(name, other) for name, chinese in said for other in others if other in chinese] == []


@pytest.mark.parametrize("english", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_keep_the_numbers(english):
    chinese = {cell.id: cell for cell in nbformat.read(NOTEBOOKS[english], 4).cells}
    for cell in nbformat.read(english, 4).cells:
        ours, theirs = (
            "".join(output.get("text", "") for output in each.get("outputs", [])) for each in (cell, chinese[cell.id])
        )
        assert not numbers(ours) - numbers(theirs), cell.id


def test_a_term_rendered_two_ways_is_found():
    assert [*style("路由把词元送给专家。")] == [] and [*style("路由器把词元送给专家。")] != []


@pytest.mark.parametrize(
    "english, chinese",
    [
        ("912 GB", "占 912 GB"),
        ("912 GB", "占921 GB"),
        ("Look.", "您看。"),
        ("Look: now.", "看,现在。"),
        ("**Now.** Then", "**现在。**然后"),
        ("$x$", "$长度$"),
        ("one\ntwo", "一行\n两行"),
        ("## 1. A", "## A"),
        ("[a](b.ipynb)", "[甲](c.ipynb)"),
        ("`load()` does it", "它会做"),
        ("```python\nf(x, 'a')\n```", "```python\ng(x, '甲')\n```"),
        ("*The figure: a.*", "图：甲。"),
        ("- a\n- b\n\n| a | b |\n|---|---|", "- 甲\n- 乙\n\n| 甲 |\n|---|"),
    ],
)
def test_a_breach_is_found(english, chinese):
    assert [*breaches(english, chinese)] != []


def test_what_is_well_is_not_complained_about():
    english = "## 1. A\n\nIt **takes** 3.8 million parameters, `load()` [here](../README.md#a).\n\n- one of 8\n- two"
    chinese = "## 1. 甲\n\n它**占**380万个参数，见[这里](../../README.zh-CN.md#a)的`load()`。\n\n- 8个里的一个\n- 两个"
    assert [*breaches(english, chinese)] == []


# Code


SOURCE = """\
right = rows["a b"]  # change this
print(f"{right:,} of {len(rows)} right")
print("right" if right else "not yet")"""


def test_strings_and_comments_are_replaced():
    own = {"{right:,} of {len(rows)} right": "{len(rows)}个里对了{right:,}个", '"right"': '"对了"'}
    code, pairs = chinese_code(SOURCE, own, {"change this": "改这里"})
    assert code.splitlines() == [
        'right = rows["a b"]  # 改这里',
        'print(f"{len(rows)}个里对了{right:,}个")',
        'print("对了" if right else "not yet")',
    ]
    words = Spoken().words(SOURCE, pairs)
    assert words.text("1,024 of 2048 right\nright\n") == "2048个里对了1,024个\n对了\n"


@pytest.mark.parametrize(
    "own, why",
    [
        ({"print": "行"}, "only in the code"),
        ({"left": "左"}, "not in the cell"),
        ({" of {len(rows)} right": "对了"}, "a placeholder"),
        ({"{len(rows)}": "{len(row)}"}, "a placeholder"),
        ({'"not yet")': '"还不对")'}, "only in the code"),
        ({"{right:,} of {len(rows)} right": "{right:,}/{len(rows)}", " of ": "/"}, "within a longer fragment"),
    ],
)
def test_a_string_that_does_not_fit_is_named(own, why):
    with pytest.raises(ValueError, match=why):
        chinese_code(SOURCE, own, {})


# Outputs


def words(*pairs, reached=(), widths=()):
    as_pairs = [
        [(with_fields(english), with_fields(chinese)) for english, chinese in each] for each in (pairs, reached)
    ]
    return Words(*as_pairs, widths)


def test_a_placeholder_keeps_its_value_and_its_padding():
    of = words(("{a:9} of {b:>6.1f} GB", "{b:>6.1f} GB里的{a:9}"), ("original", "原始的"))
    assert of.text("original  of   12.5 GB\n") == "  12.5 GB里的原始的      \n"


def test_an_inner_string_does_not_hide_the_line_around_it():
    line = words(("{x}: {y} in all", "{x}共{y}"), ("{n} long replies in a row", "连续{n}条长回复"))
    assert line.text("fp32: 3 long replies in a row in all") == "fp32共连续3条长回复"


def test_padded_fields_side_by_side_are_told_apart():
    line = words(("{name:12}{n:4} starts{ms:6.2f} ms", "{name:12}{n:4}次启动{ms:6.2f} ms"))
    assert line.text("one pass     587 starts 15.92 ms") == "one pass     587次启动 15.92 ms"


def test_a_padded_string_keeps_its_column():
    assert words(("original", "原始的"), widths=["9"]).text("original  8 45") == "原始的       8 45"


def test_a_word_of_another_cell_is_no_part_of_a_sentence():
    given = words(reached=[("of", "共"), ("{n} tokens read", "读了{n}个词元")])
    assert given.text("A squeeze of it\nof\n12 tokens read") == "A squeeze of it\n共\n读了12个词元"


def test_only_names_carry_strings_to_another_cell():
    spoken = Spoken()
    pairs = chinese_code('kinds = ["one layer"]', {"one layer": "一层"}, {})[1]
    spoken.words('kinds = ["one layer"]', pairs)
    assert spoken.words("print(*others)", []).text("one layer") == "one layer"
    assert spoken.words("print(*kinds)", []).text("one layer") == "一层"


# The command, on a course of one notebook, one page and one question

PNG = "iVBORw0KGgo="
QUESTION = '[[01]]\nask = "Why?"\nright = "a"\na = ["x", "X."]\nb = ["y", "Y."]\nc = ["z", "Z."]\n'


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Its folder, with everything translated and accepted."""
    here = tmp_path / "notebooks"
    here.mkdir()
    picture = v4.new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})
    said = v4.new_output("stream", name="stdout", text="3 tokens\n")
    cells = [
        v4.new_markdown_cell("# One", id="01-00"),
        v4.new_code_cell('print(f"{n} tokens")', id="01-01", execution_count=1, outputs=[said]),
        v4.new_code_cell("plot()", id="01-02", execution_count=2, outputs=[picture]),
        v4.new_markdown_cell("Two", id="01-03"),
    ]
    write(here / "01_a.ipynb", cells)
    (tmp_path / "README.md").write_text(
        "# Page\n\n## A part\n\n```\n# no heading\n```\n\n## Another\n", encoding="utf-8"
    )
    (here / "quiz.toml").write_text(QUESTION * 2, encoding="utf-8")
    monkeypatch.setattr(translate, "HERE", here)
    monkeypatch.setattr(translate, "ROOT", tmp_path)
    monkeypatch.setattr(translate, "PAGES", {tmp_path / "README.md": tmp_path / "README.zh-CN.md"})
    monkeypatch.setattr(translate, "QUIZ", (here / "quiz.toml", here / "quiz.zh.toml"))
    assert len(translate.problems()) == 3
    (here / "zh").mkdir()
    strings = '["01-01"]\n"{n} tokens" = "{n}个词元"\n'
    (here / "zh" / "strings.toml").write_text(strings, encoding="utf-8")
    translate.sync(pictures={translate.picture_hash(picture): {"image/png": "Chinese"}})
    (tmp_path / "README.zh-CN.md").write_text("# 页\n\n## 甲\n\n```\n# no\n```\n\n## 乙\n", encoding="utf-8")
    (here / "quiz.zh.toml").write_text(QUESTION * 2, encoding="utf-8")
    page = [f"README.md#{name}" for name in ("page", "a-part", "another")]
    translate.accept(["01-00", "01-03", *page, "quiz.toml#01-1", "quiz.toml#01-2"])
    assert translate.problems() == []
    return here


def write(path, cells):
    nbformat.write(v4.new_notebook(cells=cells), path)


def change(path, at, **fields):
    notebook = nbformat.read(path, 4)
    notebook.cells[at].update(fields)
    nbformat.write(notebook, path)


def listed(capsys) -> str:
    assert translate.main([]) == 1
    return capsys.readouterr().out


def test_code_outputs_and_figures_come_from_the_english_notebook(course):
    cells = nbformat.read(course / "zh" / "01_a.ipynb", 4).cells
    assert [cell.id for cell in cells] == ["01-00", "01-01", "01-02", "01-03"]
    assert cells[1].source == 'print(f"{n}个词元")' and cells[1].outputs[0].text == "3个词元\n"
    assert cells[2].outputs[0].data["image/png"] == "Chinese"
    assert translate.main([]) == 0


def test_a_changed_cell_is_listed_until_it_is_accepted(course, capsys):
    change(course / "01_a.ipynb", 3, source="Two, and more")
    assert "01_a.ipynb, cell 01-03: its English source has changed" in (out := listed(capsys))
    assert "translate.py accept 01-03" in out and "\n1 out of date" in out
    translate.main(["sync", "01"])  # which translates nothing
    assert "cell 01-03: its English source has changed" in listed(capsys)
    translate.main(["accept", "01-03"])
    assert translate.main([]) == 0


def test_a_changed_output_is_listed_until_sync(course, capsys):
    change(course / "01_a.ipynb", 1, outputs=[v4.new_output("stream", name="stdout", text="4 tokens\n")])
    assert "cell 01-01: is not what the English cell makes it; python notebooks/translate.py sync 01" in listed(capsys)
    translate.main(["sync", "01"])
    assert translate.main([]) == 0
    assert nbformat.read(course / "zh" / "01_a.ipynb", 4).cells[1].outputs[0].text == "4个词元\n"


def test_a_figure_of_another_run_is_listed(course, capsys):
    picture = v4.new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"})
    change(course / "01_a.ipynb", 2, outputs=[picture])
    translate.main(["sync"])
    assert "cell 01-02: shows the English picture; python notebooks/execute.py 01" in listed(capsys)


def test_a_string_that_is_gone_is_listed_and_nothing_is_written(course, capsys):
    before = (course / "zh" / "01_a.ipynb").read_bytes()
    change(course / "01_a.ipynb", 1, source='print(f"{n} words")')
    assert "zh/strings.toml, 01-01: stands not in the cell" in (out := listed(capsys)) and "'{n} tokens'" in out
    with pytest.raises(ValueError, match="01-01"):
        translate.sync()
    assert (course / "zh" / "01_a.ipynb").read_bytes() == before


def test_cells_that_came_went_or_moved_are_listed(course, capsys):
    cells = nbformat.read(course / "01_a.ipynb", 4).cells
    write(course / "01_a.ipynb", [cells[0], cells[2], cells[1], v4.new_markdown_cell("New", id="01-04")])
    out = listed(capsys)
    assert "cell 01-04: is missing" in out and "cell 01-03: has no English cell" in out
    translate.main(["sync"])
    assert "cell 01-04: is not translated yet" in listed(capsys)
    translate.main(["accept", "01-04"])
    assert translate.main([]) == 0
    write(course / "01_a.ipynb", [*nbformat.read(course / "01_a.ipynb", 4).cells[::-1]])
    assert "has its cells in another order" in listed(capsys)


def test_tables_and_shared_strings_without_a_cell_are_listed(course, capsys):
    more = f'[{SHARED}]\n"nowhere" = "无处"\n["01-99"]\n"x" = "甲"\n'
    with (course / "zh" / "strings.toml").open("a", encoding="utf-8") as file:
        file.write(more)
    out = listed(capsys)
    assert "stands in no cell: 'nowhere'" in out and "zh/strings.toml, 01-99: has no English cell" in out


def test_a_changed_section_is_listed_until_it_is_accepted(course, capsys):
    page = course.parent / "README.md"
    page.write_text(page.read_text(encoding="utf-8").replace("# no heading", "# a comment"), encoding="utf-8")
    assert "README.zh-CN.md, a-part: its English source has changed" in (out := listed(capsys))
    assert "accept README.md#a-part" in out and "\n1 out of date" in out
    before = (course.parent / "README.zh-CN.md").read_text(encoding="utf-8")
    translate.main(["accept", "README.md#a-part"])
    assert translate.main([]) == 0
    after = (course.parent / "README.zh-CN.md").read_text(encoding="utf-8")
    assert sections.REMEMBERED.sub("", before) == sections.REMEMBERED.sub("", after) and before != after


def test_a_page_with_other_sections_is_listed(course, capsys):
    with (course.parent / "README.md").open("a", encoding="utf-8") as file:
        file.write("\n### Below\n")
    assert "README.zh-CN.md: has 3 sections where README.md has 4" in listed(capsys)


def test_a_changed_question_is_listed_until_it_is_accepted(course, capsys):
    (course / "quiz.toml").write_text(QUESTION + QUESTION.replace("Why?", "How?"), encoding="utf-8")
    assert "quiz.zh.toml, 01-2: its English source has changed" in (out := listed(capsys)) and "\n1 out of" in out
    translate.main(["accept", "quiz.toml#01-2"])
    assert translate.main([]) == 0
    assert len(sections.HASH.findall((course / "quiz.zh.toml").read_text(encoding="utf-8"))) == 2


@pytest.mark.parametrize("name", ["01-99", "README.md#nowhere", "nowhere.md#a", "quiz.toml#02-1"])
def test_what_is_not_there_cannot_be_accepted(course, name):
    change(course / "01_a.ipynb", 0, source="# New")
    before = (course / "zh" / "01_a.ipynb").read_bytes()
    with pytest.raises(SystemExit, match="no "):
        translate.main(["accept", "01-00", name])
    assert (course / "zh" / "01_a.ipynb").read_bytes() == before


def test_a_figure_is_drawn_in_chinese_and_left_as_it_was():
    from translation.figures import in_chinese

    from minimax_nb.plots import basics

    figure = basics.traps({"converted: 8 tokens": {"error": 0.1}, "alphas of 1": {"error": 0.2}})
    given = words(("converted", "转换后"), ("{n} tokens", "{n}个词元"), ("alphas of 1", "alpha为1"), ("error", "误差"))

    def labels() -> list[str]:
        figure.canvas.draw()
        (axes,) = figure.axes
        return [axes.get_title(), *(label.get_text() for label in axes.get_yticklabels())]

    before = labels()
    with in_chinese(figure, given):
        assert set(labels()) == {"误差", "转换后：8个词元", "alpha为1"}
        assert {label.get_fontname() for label in figure.axes[0].get_yticklabels()} == {"Noto Sans SC"}
    assert labels() == before and "alphas of 1" in before
