"""What explorers share, without a browser: values, work in a thread, the widget; and the stepper's sums."""

import importlib
import json
import math
import re
import sys
import threading
from html import escape
from math import inf, nan
from pathlib import Path

import nbformat
import pytest
import torch
from nbconvert import HTMLExporter

from minimax_nb.widgets import stepper
from minimax_nb.widgets.controls import Control
from minimax_nb.widgets.explorers import view as explorer_view
from minimax_nb.widgets.explorers.explorer import Explorer
from minimax_nb.widgets.explorers.stepper import DIMS, TILE, TILES, TOKENS, Stepper
from minimax_nb.widgets.explorers.view import ExplorerView
from minimax_nb.widgets.markup import bar, table

FOLDER = Path(explorer_view.__file__).parent
NONSENSE = [
    *[None, 3, "set", [], {}, {"do": None}, {"do": ["set"]}, {"do": "dance"}, {"do": "_end"}, {"do": "set"}],
    *[{"do": "set", "name": name, "value": 1} for name in (None, 3, {}, "\ud83e", "nothing")],
    *[{"do": "set", "name": "side", "value": value} for value in (inf, -inf, nan, 10**400, "4", None, [], {}, True)],
    *[{"do": "set", "name": "name", "value": value} for value in ("\ud83e", "a\udd5a", 3, inf, None, ["a"])],
    *[{"do": "set", "name": name, "value": inf} for name in ("half", "size", "filled")],
]
LONG = 60  # s, for waits that end at once unless something is broken


class Squares(Explorer):
    """Draws a square; its work says two words, finds a number, and waits for `go` before each step."""

    title, hint, action = "Squares <i>", "Draws.", "Count"
    controls = (
        Control("side", "Side", 3, low=1, high=9),
        Control("half", "Half", 0.5, low=0, high=1000, step=0.5),
        Control("name", "Name", "a"),
        Control("size", "Size", "small", options=("small", "large")),
        Control("filled", "Filled", True),
    )

    def __init__(self):
        self.go, self.reached = threading.Semaphore(0), threading.Semaphore(0)
        super().__init__()

    def draw(self):
        if self.values["name"] == "broken":
            raise ValueError("no such\nsquare")
        return table(["name", "area"], [[self.values["name"], str(self.values["side"] ** 2)]]) + f"<p>{self.kept}</p>"

    def describe(self):
        return f"{self.values['name']}: {self.values['side'] ** 2}, {self.kept}"

    def run(self):
        for news in ("one", "two", self.values["side"]):
            self.reached.release()
            assert self.go.acquire(timeout=LONG)
            yield news

    def keep(self, result):
        self.kept = result

    def forget(self):
        self.kept = None

    def step(self, count: int = 1) -> None:
        """Let `count` steps of `run` be taken, and wait until it stands before the next."""
        for _ in range(count):
            self.stand()
            self.go.release()
        if count < 3:
            self.stand()
            self.reached.release()

    def stand(self) -> None:
        assert self.reached.acquire(timeout=LONG)


class Broken(Squares):
    def run(self):
        yield next(super().run())
        self.reached.release()
        assert self.go.acquire(timeout=LONG)
        raise RuntimeError("<b>no</b> memory\nat all")


@pytest.fixture
def state():
    return Squares()


# Values


def test_kinds_of_controls():
    assert [control.kind for control in Squares.controls] == ["slider", "number", "text", "list", "switch"]


@pytest.mark.parametrize(
    "name, value",
    [("side", 9), ("side", 4.0), ("half", 1.5), ("half", 1000), ("name", ""), ("size", "large"), ("filled", False)],
)
def test_a_right_value_is_taken_and_drawn(state, name, value):
    drawn = []
    state.changed = lambda: drawn.append(state.values[name])
    state.set(name, value)
    assert state.values == {control.name: control.start for control in Squares.controls} | {name: value}
    assert drawn == [value] and state.status == "ready"
    assert type(state.values["side"]) is int


def test_the_picture_follows_the_values(state):
    state.set("side", 4)
    assert "<td>16</td>" in state.picture and state.text == "a: 16, None"


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("side", 10, "Side is 10: give a whole number from 1 to 9"),
        ("side", 2.5, "Side is 2.5: give a whole number from 1 to 9"),
        ("side", "4", "Side is '4': give a whole number from 1 to 9"),
        ("side", True, "Side is True: give a whole number from 1 to 9"),
        ("half", -1, "Half is -1: give a number from 0 to 1,000"),
        ("half", None, "Half is empty: give a number from 0 to 1,000"),
        ("half", nan, "Half is nan: give a number from 0 to 1,000"),
        ("half", inf, "Half is inf: give a number from 0 to 1,000"),
        ("name", None, "Name cannot be None"),
        ("size", "huge", "Size cannot be 'huge'"),
        ("filled", 1, "Filled cannot be 1"),
        ("name", "\ud83e", "Name holds half of a character, which cannot be read: type it again"),
        ("nothing", 1, "nothing is called 'nothing'"),
        (["side"], 1, "nothing is called ['side']"),
    ],
)
def test_a_wrong_value_is_told_and_not_taken(state, name, value, words):
    before = state.values, state.picture
    state.set(name, value)
    assert state.status == f"error: {words}" and (state.values, state.picture) == before
    state.set("side", 5)
    assert state.status == "ready"


def test_a_number_that_python_writes_out_nowhere_is_refused_in_words(state):
    state.set("side", 10**5000)
    assert state.status == "error: Side is too long a number: give a whole number from 1 to 9"


def test_reset_brings_back_the_start(state):
    first = state.picture
    state.set("side", 9)
    state.set("half", -1)
    state.reset()
    assert (state.values["side"], state.picture, state.status) == (3, first, "ready")


def test_an_error_while_drawing_is_told_and_leaves_no_old_picture(state):
    state.set("name", "broken")
    assert (state.status, state.picture, state.text) == ("error: no such", "", "")
    state.set("name", "whole")
    assert state.status == "ready" and "whole" in state.picture


def test_what_a_reader_types_is_escaped(state):
    state.set("name", "<script>&")
    assert "&lt;script&gt;&amp;" in state.picture and "<script>" not in state.picture
    assert state.text == "<script>&: 9, None"


def test_a_table_has_rows_and_columns_that_are_named():
    made = table(["<a>", "b"], [["one\ntwo", "[3]"]], caption="c & d", prose=True)
    assert '<th scope="col">&lt;a&gt;</th>' in made and '<th scope="row">one<br>two</th><td><b>[3]</b></td>' in made
    assert "<caption>c &amp; d</caption>" in made and 'class="mmnb-prose"' in made
    assert "class" not in table(["a"], [])


@pytest.mark.parametrize("share, width", [(-1, "0.00"), (0.5, "6.00"), (3, "12.00")])
def test_a_bar_stays_in_its_place(share, width):
    assert f"width:{width}em" in bar(share) and 'aria-hidden="true"' in bar(share)


# Work in a thread


def test_work_tells_where_it_is_and_what_it_found(state):
    state.start()
    assert (state.status, state.busy) == ("at work...", True)
    state.step()
    assert state.status == "one"
    state.step()
    assert state.status == "two" and state.kept is None
    state.go.release()
    state.wait(LONG)
    assert (state.status, state.busy, state.kept, state.text) == ("done", False, 3, "a: 9, 3")


def test_values_can_be_changed_meanwhile(state):
    state.start()
    state.step()
    state.set("side", 5)
    assert state.status == "one" and "<td>25</td>" in state.picture
    state.set("side", 0)
    assert state.status.startswith("error: Side is 0") and state.busy
    state.step()
    state.go.release()
    state.wait(LONG)
    assert state.status == "done" and state.kept == 3  # of the start


def test_work_is_done_once_at_a_time(state):
    state.start()
    thread = state._job.thread
    state.start()
    assert state.status == "still at work: press Stop first" and state._job.thread is thread
    state.step(3)
    state.wait(LONG)
    assert state.status == "done"


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_stop_ends_it_at_the_next_step(state, steps):
    state.start()
    if steps:
        state.step(steps)
    state.stop()
    assert (state.status, state.busy) == ("stopping...", True)
    state.go.release()
    state.wait(LONG)
    assert (state.status, state.busy) == ("stopped", False)
    assert state.kept == (3 if steps == 2 else None)  # what was found is not thrown away


def test_stop_does_nothing_where_nothing_is_done(state):
    state.stop()
    assert state.status == "ready"


def test_after_a_stop_it_can_be_started_again(state):
    state.start()
    state.stop()
    state.go.release()
    state.wait(LONG)
    state.reached = threading.Semaphore(0)
    state.start()
    state.step(3)
    state.wait(LONG)
    assert (state.status, state.kept) == ("done", 3)


def test_an_error_at_work_is_told():
    state = Broken()
    state.start()
    state.step()
    state.go.release()
    state.wait(LONG)
    assert (state.status, state.busy) == ("error: RuntimeError: <b>no</b> memory", False)
    state.set("side", 4)
    assert state.status == "ready"


def test_reset_lets_go_of_work_and_what_it_finds_later(state):
    state.start()
    state.step(2)
    old = state._job.thread
    state.set("side", 7)
    state.reset()
    now = state.status, state.busy, state.kept, state.picture, state.values
    assert now[:3] == ("ready", False, None)
    state.go.release()
    old.join(LONG)
    assert not old.is_alive()
    assert (state.status, state.busy, state.kept, state.picture, state.values) == now


def test_old_work_fails_unseen():
    state = Broken()
    state.start()
    old = state._job.thread
    state.step()
    state.reset()
    state.go.release()
    old.join(LONG)
    assert not old.is_alive() and state.status == "ready"


def test_old_work_neither_ends_nor_stops_what_was_started_after_a_reset(state):
    state.start()
    old = state._job.thread
    state.stand()
    state.reset()
    state.start()
    new = state._job.thread
    state.stand()
    state.go.release(4)
    old.join(LONG)
    new.join(LONG)
    assert not old.is_alive() and not new.is_alive()
    assert (state.status, state.busy, state.kept) == ("done", False, 3)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_page_that_is_gone_leaves_no_explorer_busy_for_good(state):
    def gone():
        raise OSError("the page is gone")

    state.changed = gone
    with pytest.raises(OSError):
        state.start()
    thread = state._job.thread
    state.go.release(3)
    thread.join(LONG)
    assert not state.busy
    state.changed = lambda: None
    state.reached, state.go = threading.Semaphore(0), threading.Semaphore(0)
    state.start()
    state.step(3)
    state.wait(LONG)
    assert state.status == "done"


def test_the_status_after_a_change_is_the_explorers_own(state):
    state.summary = lambda: f"area {state.values['side'] ** 2}"
    state.set("side", 2)
    assert state.status == "area 4"


# The widget


@pytest.fixture
def view(state):
    return ExplorerView(state)


def ask(view, do, **rest) -> None:
    """What the page sends."""
    view._handle_custom_msg({"do": do, **rest}, [])


def test_the_page_asks_and_is_told(view, state, monkeypatch):
    answers = []
    monkeypatch.setattr(view, "send", answers.append)
    ask(view, "set", name="side", value=4)
    assert view.values["side"] == 4 and "<td>16</td>" in view.picture
    ask(view, "start")
    assert (view.busy, view.status) == (True, "at work...")
    state.step()
    ask(view, "stop")
    state.go.release()
    state.wait(LONG)
    assert (view.busy, view.status) == (False, "stopped")
    ask(view, "reset")
    assert (view.values["side"], view.status) == (3, "ready")
    assert answers == [{"heard": True}] * 4


@pytest.mark.parametrize("message", NONSENSE, ids=range(len(NONSENSE)))
def test_what_the_page_cannot_mean_is_said_and_answered(view, state, monkeypatch, message):
    answers, before = [], state.values
    monkeypatch.setattr(view, "send", answers.append)
    view._handle_custom_msg(message, [])
    assert view.status.startswith("error: ") and answers == [{"heard": True}]
    assert "Error" not in view.status  # in words, not as an exception
    assert (state.values, state.busy) == (before, False)
    json.dumps(view.get_state()["status"]).encode()


def test_a_page_never_sees_half_of_a_change(view, state, monkeypatch):
    sent = []
    monkeypatch.setattr(view, "send_state", lambda keys: sent.append(set(keys)))
    state.set("side", 4)
    assert sent == [{"values", "picture"}]


def test_what_goes_to_the_page_is_json(view):
    kept = {name: value for name, value in view.get_state().items() if name != "layout"}
    controls = json.loads(json.dumps(kept, allow_nan=False))["controls"]
    assert [control["kind"] for control in controls] == [control.kind for control in Squares.controls]


def test_the_page_and_the_widget_use_the_same_names(view):
    page = (FOLDER / "explorer.js").read_text(encoding="utf-8")
    read = set(re.findall(r'model\.get\("(\w+)"\)', page))
    assert len(read) > 5 and read <= set(view.trait_names(sync=True))
    shared = (FOLDER.parent / "page.js").read_text(encoding="utf-8")
    assert set(re.findall(r'\bask\("(\w+)"', page + shared)) == set(view.actions)


def test_a_still_picture_has_the_values_and_the_picture(view, state):
    state.set("name", "<b>")
    bundle, _ = view._repr_mimebundle_()
    about = ["Squares <i>, a still picture. Run this cell in JupyterLab to change what is shown."]
    about += ["Side: 3; Half: 0.5; Name: <b>; Size: small; Filled: on."]
    assert bundle["text/plain"] == "\n".join([*about, state.text])
    assert bundle["text/html"] == "".join(f"<p>{escape(line)}</p>" for line in about) + state.picture
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_a_still_picture_tells_what_went_wrong(view, state):
    state.set("name", "broken")
    assert "Status: error: no such" in view.as_text()
    assert "<p>Status: error: no such</p>" in view.as_html()


def test_a_printed_notebook_shows_the_still_picture(view):
    bundle, _ = view._repr_mimebundle_()
    cell = nbformat.v4.new_code_cell("explorer", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("execute_result", bundle, execution_count=1)]
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert view.as_html() in page


def test_the_logic_needs_no_widgets(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("minimax_nb.widgets")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("ipywidgets", "anywidget"):
        monkeypatch.setitem(sys.modules, name, None)
    importlib.import_module("minimax_nb.widgets.explorers.stepper")
    with pytest.raises(ImportError, match="anywidget"):
        importlib.import_module("minimax_nb.widgets.explorers.view")


# The stepper


@pytest.mark.parametrize("size", ["1", "10", "100"])
def test_tile_by_tile_equals_plain_softmax(size):
    state = Stepper()
    state.set("size", size)
    state.set("step", len(TILES))
    got = torch.tensor([row.result() for row in state.rows()])
    future = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
    want = torch.tensor(state.scores()).double().masked_fill(future, float("-inf")).softmax(-1) @ state._v.double()
    assert (got - want).abs().max() < 1e-6
    assert f"Finished queries: {TOKENS}, equal to plain softmax within 1e-6: yes." in state.text


def test_times_100_the_scores_are_beyond_fp32_without_the_largest_taken_off():
    state = Stepper()
    state.set("size", "100")
    scores = torch.tensor(state.scores()).tril()
    assert scores.exp().isinf().any()
    state.set("step", len(TILES))
    assert all(1 <= row.total <= TOKENS for row in state.rows())


def test_a_wrong_output_is_told(monkeypatch):
    state = Stepper()
    monkeypatch.setattr(state, "plain", lambda: [[1.0] * DIMS] * TOKENS)
    state.set("step", 1)
    assert "equal to plain softmax within 1e-6: NO." in state.text


@pytest.mark.parametrize("step", range(len(TILES) + 1))
def test_one_tile_is_held_at_a_time(step):
    state = Stepper()
    state.set("step", step)
    marks = re.findall(r"<td>(.*?)</td>", state.picture)
    held, gone, later = (sum(mark.startswith(kind) for mark in marks) for kind in ("<b>[", "gone", "later"))
    diagonal = [tile for tile in TILES[:step] if tile[0] == tile[1]]
    seen = step * TILE**2 - len(diagonal)  # of a tile on the diagonal one score is in the future
    assert held == (0 if not step else 3 if TILES[step - 1] in diagonal else 4)
    assert (held + gone, held + gone + later) == (seen, TOKENS * (TOKENS + 1) // 2)


def test_numbers_on_the_chip_do_not_grow_with_the_text():
    """4 scores, and of each of 2 queries the largest, the sum and 2 numbers of the output."""
    state = Stepper()
    assert state.text == ""  # before the first step nothing is held, and no answer is given away
    for step in range(1, len(TILES) + 1):
        state.set("step", step)
        assert ": 12 numbers, however long" in state.text and TILE * TILE + TILE * (2 + DIMS) == 12
        assert "Plain softmax writes 64 scores" in state.text


@pytest.mark.parametrize("step", range(1, len(TILES) + 1))
def test_the_shrink_factor_is_that_of_the_largest_scores(step):
    """exp(old largest - new largest), from the scores themselves, in the table and in words."""
    state = Stepper()
    state.set("step", step)
    top, left = TILES[step - 1]
    for query in range(top, top + TILE):
        scores = state.scores()[query]
        seen, new = scores[:left], scores[left : min(left + TILE, query + 1)]
        cells = re.findall(r"<td>(.*?)</td>", state.picture.split("<tr>")[query + 2])
        if not seen:
            assert cells[TOKENS + 1] == "" and f"Query {query} meets its first tile" in state.text
            continue
        factor = math.exp(max(seen) - max(seen + new))
        assert cells[TOKENS + 1] == f"{factor:.2f}"
        grown = f"exp({max(seen):z.1f} - {max(new):z.1f}) = {factor:.3g}." in state.text
        assert grown if factor < 1 else f"Query {query} meets no score above {max(seen):z.1f}," in state.text
    others = [query for query in range(TOKENS) if query not in range(top, top + TILE)]
    assert all(re.findall(r"<td>(.*?)</td>", state.picture.split("<tr>")[q + 2])[TOKENS + 1] == "" for q in others)


def test_the_stepper_says_which_tile_it_is_at():
    widget = stepper()
    assert widget.status == "Step 0 of 10: nothing is computed yet."
    widget.explorer.set("step", 2)
    assert widget.status == "Step 2 of 10: queries 2 and 3 meet keys 0 and 1."
    assert f"<p>Status: {widget.status}</p>" in widget.as_html()
