"""The playground without a browser: its logic against Chat, its widget by what it sends to the page and hears back."""

import importlib
import itertools
import json
import re
import sys
import threading
import time
import tomllib
from html import escape
from math import inf, nan
from pathlib import Path

import nbformat
import pytest
import torch
from nbconvert import HTMLExporter

from minimax_nb.cache import stock_cache
from minimax_nb.chat import Chat
from minimax_nb.widgets import playground
from minimax_nb.widgets.playground import reply
from minimax_nb.widgets.playground import view as playground_view
from minimax_nb.widgets.playground.code import as_code
from minimax_nb.widgets.playground.settings import CONTROLS, MANY, generation, problem, start
from minimax_nb.widgets.playground.state import Playground

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "minimax_nb" / "widgets"
SYSTEM = "a recipe for one"
GREEDY = {"do_sample": False, "max_new_tokens": 12}
LONG = 60  # s, for waits that end at once unless something is broken
TOOK = r"[\d.]+ s \([\d.]+ a second after the first\)"


@pytest.fixture
def state(loaded):
    state = Playground(*loaded, system=SYSTEM)
    state.set("max_new_tokens", 12)
    return state


@pytest.fixture
def chat(loaded):
    """What the playground must equal."""
    return Chat(*loaded, system=SYSTEM)


@pytest.fixture
def brake(loaded):
    brake = Brake(loaded[0])
    yield brake
    brake.remove()


class Brake:
    """Holds a reply before its forward pass number `at`, from 0; this thread's own use of the model goes through."""

    def __init__(self, model):
        self.hook = model.register_forward_pre_hook(self)
        self.hold(at=-1)

    def __call__(self, *_):
        if threading.current_thread() is not threading.main_thread() and next(self.steps) == self.at:
            self.held.set()
            assert self.released.wait(LONG)
            if self.error:
                raise self.error

    def hold(self, at: int, error: Exception | None = None) -> None:
        self.at, self.error, self.steps = at, error, itertools.count()
        self.held, self.released = threading.Event(), threading.Event()

    def wait(self) -> None:
        assert self.held.wait(LONG)

    def release(self) -> None:
        self.released.set()

    def remove(self) -> None:
        self.hook.remove()
        self.release()


def said(state, text=None) -> str:
    """The finished reply to `text`, or without one the last reply written again."""
    state.regenerate() if text is None else state.send(text)
    state.wait(LONG)
    assert not state.busy and state.reply is None
    return state.messages[-1]["content"]


# Settings


def test_the_start_is_greedy():
    assert generation(start()) == {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 200}


def test_above_zero_every_setting_but_the_seed_is_passed():
    given = generation(start() | {"temperature": 0.7, "top_k": 3.0, "top_p": 1, "seed": 4})
    assert given.keys() - {"do_sample"} == {control.name for control in CONTROLS} - {"seed"}
    assert given["do_sample"] and (given["temperature"], given["top_k"], given["top_p"]) == (0.7, 3, 1.0)
    assert type(given["top_k"]) is int and type(given["top_p"]) is float  # Transformers insists on both


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_limits_are_allowed_and_what_lies_beyond_is_not(control):
    for value in (control.low, control.high):
        assert problem(start() | {control.name: value}) == ""
    for value in (control.low - control.step, control.high + control.step, "1", True, nan, inf, -inf, 10**400):
        assert problem(start() | {control.name: value}).startswith(control.label.split(" (")[0])
        with pytest.raises(ValueError):
            generation(start() | {control.name: value})


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("temperature", 3, "Temperature is 3: give a number from 0 to 2"),
        ("top_k", 2.5, f"Top-k is 2.5: give a whole number from 0 to {MANY:,}"),
        ("max_new_tokens", None, f"Longest reply is empty: give a whole number from 1 to {MANY:,}"),
        ("top_p", 0, "Top-p is 0: give a number from 0.05 to 1"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(name, value, words):
    with pytest.raises(ValueError) as raised:
        generation(start() | {name: value})
    assert str(raised.value) == words


# The logic


def test_greedy_turns_equal_chat(state, chat):
    for text in ("the sauce", "and a recipe", "蛋黄酱怎么做"):
        assert said(state, text) == chat.send(text, **GREEDY)
    assert state.messages == chat.messages and state._chat.ids == chat.ids


def test_a_seed_draws_what_the_global_one_would(state, chat):
    state.set("temperature", 1.5)
    state.set("seed", 3)
    before = torch.get_rng_state()
    reply = said(state, "the sauce")
    assert torch.equal(torch.get_rng_state(), before)  # other cells' draws are not disturbed
    assert re.search(rf" in {TOOK}, seed 3(;|$)", state.status)
    torch.manual_seed(3)
    assert chat.send("the sauce", do_sample=True, temperature=1.5, max_new_tokens=12) == reply
    assert said(state) == reply


def test_without_a_seed_one_is_drawn_and_told(state):
    state.set("temperature", 1.5)
    reply = said(state, "the sauce")
    state.set("seed", int(re.search(r"seed (\d+)", state.status)[1]))
    assert said(state) == reply


def test_a_reply_arrives_in_pieces_and_is_never_taken_back(state):
    seen = []
    state.changed = lambda: seen.append(state.reply)
    reply = said(state, "the sauce")
    growing = [text for text in seen if text is not None]
    assert len(set(growing)) > 3 and growing[-1] == reply and seen[-1] is None
    assert all(after.startswith(before) for before, after in itertools.pairwise(growing))


def test_sending_returns_at_once_and_other_cells_may_use_the_model(loaded, state, chat, brake):
    brake.hold(at=3)
    state.send("the sauce")
    brake.wait()
    assert state.busy and state.status == "writing..."
    assert state.messages[-1] == {"role": "user", "content": "the sauce"}
    alone = Chat(*loaded).send("and a recipe", **GREEDY)
    brake.release()
    state.wait(LONG)
    assert state.messages[-1]["content"] == chat.send("the sauce", **GREEDY)
    assert Chat(*loaded).send("and a recipe", **GREEDY) == alone


def test_a_cell_that_takes_the_repair_back_does_not_reach_the_reply(state, chat, brake):
    for text in ("the sauce", "and a recipe"):
        brake.hold(at=0)
        state.send(text)
        brake.wait()
        with stock_cache():
            brake.release()
            state.wait(LONG)
        chat.send(text, **GREEDY)
    assert state._chat.ids == chat.ids


@pytest.mark.parametrize("at", [0, 4])
def test_stop_keeps_the_half_reply_and_the_next_turn_is_right(state, chat, brake, at):
    brake.hold(at)
    state.send("the sauce")
    brake.wait()
    state.stop()
    assert state.status == "stopping..." and state.busy
    brake.release()
    state.wait(LONG)
    took = TOOK if at else r"[\d.]+ s"
    assert re.fullmatch(rf"stopped: {at + 1} tokens? in {took}; the half reply is kept", state.status)
    assert state.messages[-1]["content"] == chat.send("the sauce", **GREEDY | {"max_new_tokens": at + 1})
    assert said(state, "and a recipe") == chat.send("and a recipe", **GREEDY)
    assert state._chat.ids == chat.ids


def test_stop_while_nothing_is_written_changes_nothing(state):
    said(state, "the sauce")
    before = state.status
    state.stop()
    assert state.status == before and not state.busy


def test_regenerate(state, chat):
    state.regenerate()
    assert state.status == "nothing to regenerate yet: send a message"
    said(state, "the sauce")
    state.set("max_new_tokens", 5)
    assert said(state) == chat.send("the sauce", **GREEDY | {"max_new_tokens": 5})
    assert state.messages == chat.messages


def test_regenerate_that_fails_keeps_the_old_reply(state, chat, brake):
    said(state, "the sauce")
    chat.send("the sauce", **GREEDY)
    brake.hold(at=2, error=RuntimeError("out of memory\nlong explanation"))
    state.regenerate()
    brake.wait()
    assert state.messages == chat.messages[:-1]
    brake.release()
    state.wait(LONG)
    assert state.status == "error: RuntimeError: out of memory" and state.messages == chat.messages
    assert said(state, "and a recipe") == chat.send("and a recipe", **GREEDY)


def test_an_error_is_said_the_message_comes_back_and_the_chat_goes_on(state, chat, brake):
    brake.hold(at=2, error=RuntimeError("out of memory"))
    brake.release()
    state.send("the sauce")
    state.wait(LONG)
    assert (state.status, state.unsent) == ("error: RuntimeError: out of memory", "the sauce")
    assert not state.busy and state.messages == chat.messages
    assert said(state, "the sauce") == chat.send("the sauce", **GREEDY)
    assert state.unsent == ""


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_message_is_refused(state, text):
    state.send(text)
    state.wait(LONG)
    assert state.status == "error: the message is empty: say something" and len(state.messages) == 1


def test_a_wrong_setting_is_said_and_refused_until_it_is_mended(state):
    state.set("top_p", 3)
    words = "error: Top-p is 3: give a number from 0.05 to 1"
    assert state.status == words
    state.send("the sauce")
    state.wait(LONG)
    assert (state.status, state.unsent, len(state.messages)) == (words, "the sauce", 1)
    state.set("top_p", 1)
    assert state.status == "ready"
    state.set("top_q", 1)
    assert state.status == "error: no setting is called 'top_q'" and "top_q" not in state.settings


def test_settings_count_from_the_next_reply_on(state, chat, brake):
    brake.hold(at=2)
    state.send("the sauce")
    brake.wait()
    state.set("max_new_tokens", 4)
    brake.release()
    state.wait(LONG)
    assert state.messages[-1]["content"] == chat.send("the sauce", **GREEDY)
    assert re.fullmatch(rf"cut: 12 tokens in {TOOK}; the longest reply was set to 12", state.status)
    said(state, "and a recipe")
    assert re.fullmatch(rf"cut: 4 tokens in {TOOK}; the longest reply was set to 4", state.status)


def test_one_reply_at_a_time(state, chat, brake):
    brake.hold(at=2)
    state.send("the sauce")
    brake.wait()
    shown = state.messages
    for press in (lambda: state.send("another"), state.regenerate):
        press()
        assert state.status == "still writing: press Stop first" and state.messages == shown
    brake.release()
    state.wait(LONG)
    chat.send("the sauce", **GREEDY)
    assert state.messages == chat.messages


def test_reset_while_writing_is_a_new_chat_at_once(state, chat, brake):
    said(state, "and a recipe")
    brake.hold(at=2)
    state.send("the sauce")
    brake.wait()
    old = state._job.thread
    state.reset()

    def now():
        return state.messages, state.settings, state.status, state.busy, state.reply

    fresh = [{"role": "system", "content": SYSTEM}], start(), "ready", False, None
    assert now() == fresh
    brake.release()
    old.join(LONG)
    assert now() == fresh and not old.is_alive()
    state.set("max_new_tokens", 12)
    assert said(state, "the sauce") == chat.send("the sauce", **GREEDY)


def slowly(monkeypatch, state) -> dict:
    """Replies that are written a word at a time, each when it is let through: {text: semaphore}."""
    gates = {"the sauce": threading.Semaphore(0), "and a recipe": threading.Semaphore(0)}

    def pieces(self, stop):
        for piece in ("one ", "two ", "three "):
            assert gates[self.text].acquire(timeout=LONG)
            yield f"{self.text} {piece}"

    monkeypatch.setattr(reply.Reply, "pieces", pieces)
    return gates


@pytest.mark.parametrize("away", ["new_chat", "reset"])
def test_late_pieces_of_a_dropped_reply_reach_no_later_one(state, monkeypatch, away):
    gates, texts = slowly(monkeypatch, state), []
    state.changed = lambda: texts.append(state.reply)
    state.send("the sauce")
    old = state._job.thread
    gates["the sauce"].release()
    while state.reply != "the sauce one ":
        time.sleep(0.001)
    getattr(state, away)()
    state.send("and a recipe")
    gates["and a recipe"].release()
    while state.reply != "and a recipe one ":
        time.sleep(0.001)
    gates["the sauce"].release(2)
    old.join(LONG)
    assert not old.is_alive() and state.reply == "and a recipe one " and state.busy
    gates["and a recipe"].release()
    while state.reply == "and a recipe one ":
        time.sleep(0.001)
    assert state.reply == "and a recipe one and a recipe two "
    state.new_chat()


@pytest.mark.parametrize("again", [False, True])
def test_a_reply_that_was_dropped_and_fails_later_is_not_said(state, brake, monkeypatch, again):
    brake.hold(at=2, error=RuntimeError("out of memory"))
    state.send("the sauce")
    brake.wait()
    old = state._job.thread
    state.new_chat()
    gates = slowly(monkeypatch, state)
    if again:
        state.send("and a recipe")
    brake.release()
    old.join(LONG)
    assert not old.is_alive()
    assert (state.status, state.unsent, state.busy) == ("writing..." if again else "ready", "", again)
    state.new_chat()
    gates["and a recipe"].release(3)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_page_that_is_gone_leaves_no_playground_busy_for_good(state):
    def gone():
        raise OSError("the page is gone")

    state.changed = gone
    with pytest.raises(OSError):
        state.send("the sauce")
    state._job.thread.join(LONG)
    assert not state.busy
    state.changed = lambda: None
    state.new_chat()
    assert said(state, "the sauce") and state.status.startswith("cut: ")


def test_a_new_chat_keeps_the_settings_and_a_wrong_one_stays_said(state):
    said(state, "the sauce")
    state.set("top_p", 3)
    settings = state.settings
    state.new_chat()
    assert state.messages == [{"role": "system", "content": SYSTEM}] and state.settings == settings != start()
    assert state.status == "error: Top-p is 3: give a number from 0.05 to 1"
    state.set("top_p", 1)
    state.new_chat()
    assert state.status == "ready" and state.settings["max_new_tokens"] == 12


def test_a_system_prompt_counts_at_once_before_the_first_message(loaded, state):
    state.set_system("only sauces")
    assert state.messages == [{"role": "system", "content": "only sauces"}] and state.status == "ready"
    assert said(state, "the sauce") == Chat(*loaded, system="only sauces").send("the sauce", **GREEDY)


def test_a_conversation_that_has_begun_keeps_its_system_prompt(loaded, state, chat):
    said(state, "the sauce")
    chat.send("the sauce", **GREEDY)
    state.set_system("only sauces")
    assert state.status == "the system prompt counts from the next new chat on"
    assert said(state, "and a recipe") == chat.send("and a recipe", **GREEDY) and state.messages == chat.messages
    state.new_chat()
    assert state.messages == [{"role": "system", "content": "only sauces"}]
    assert said(state, "the sauce") == Chat(*loaded, system="only sauces").send("the sauce", **GREEDY)
    state.reset()
    assert (state.system, state.messages) == (SYSTEM, [{"role": "system", "content": SYSTEM}])


def test_a_system_prompt_given_while_a_reply_is_written_waits_for_the_next_chat(state, chat, brake):
    brake.hold(at=2)
    state.send("the sauce")
    brake.wait()
    state.set_system(" \n")
    assert (state.status, state.busy, state.system) == ("writing...", True, None)
    brake.release()
    state.wait(LONG)
    chat.send("the sauce", **GREEDY)
    assert state.messages == chat.messages
    state.new_chat()
    assert state.messages == []


def test_tokens_a_second_are_counted_from_the_first_one_on(state, monkeypatch):
    clock = itertools.chain([0, 5, 5.25, 5.5, 5.75], itertools.repeat(6.0))  # the prompt took 5 s
    monkeypatch.setattr(reply.time, "perf_counter", lambda: next(clock))
    state.set("max_new_tokens", 4)
    said(state, "the sauce")
    assert state.status.startswith("cut: 4 tokens in 6.0 s (4.0 a second after the first); ")


def run(code: str) -> list[str]:
    """What a cell with this code prints."""
    printed = []
    exec(code, {"print": printed.append})
    return printed


def test_the_conversation_as_code_says_the_same(state):
    assert state.code == ""
    said(state, 'the "sauce" \\ for\ntwo 🥚')
    state.set("temperature", 1.5)
    state.set("seed", 3)
    said(state, "and a recipe")
    state.set("seed", None)
    said(state)
    state.set("repetition_penalty", 1.3)
    state.set("max_new_tokens", 6)
    said(state, "mustard")
    replies = [message["content"] for message in state.messages if message["role"] == "assistant"]
    assert run(state.code) == replies and len(replies) == 3
    assert state.code.count("settings = {") == 3 and state.code.count("manual_seed(") == 2 and SYSTEM in state.code


def test_a_stopped_reply_as_code_is_as_long(state, brake):
    brake.hold(at=4)
    state.send("the sauce")
    brake.wait()
    state.stop()
    brake.release()
    state.wait(LONG)
    reply = said(state, "and a recipe")
    assert run(state.code) == [state.messages[2]["content"], reply] and "import torch" not in state.code


def test_what_failed_is_in_no_code(state, brake):
    said(state, "the sauce")
    code = state.code
    for press in (state.regenerate, lambda: state.send("and a recipe")):
        brake.hold(at=2, error=RuntimeError("out of memory"))
        brake.release()
        press()
        state.wait(LONG)
        assert state.status.startswith("error") and state.code == code
    state.new_chat()
    assert state.code == ""


def test_code_names_the_folder_as_it_can_be_found(tmp_path, monkeypatch):
    (tmp_path / "work" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    inside, here = tmp_path / "work" / "demo", tmp_path.as_posix()
    names = {str(inside): "demo", "demo": "demo", "../work/demo": "../work/demo", str(tmp_path): here}
    for folder, shown in names.items():
        assert f'load("{shown}")\n' in as_code(folder, None, [])
    for folder in ("", "MiniMaxAI/MiniMax-Text-01"):
        assert 'load("a-converted-folder")  # yours\n' in as_code(folder, None, [])


def test_the_logic_needs_no_widgets(monkeypatch):
    names = [name for name in sys.modules if name.startswith("minimax_nb.widgets")]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    for name in ("ipywidgets", "anywidget"):
        monkeypatch.setitem(sys.modules, name, None)
    importlib.import_module("minimax_nb.widgets.playground.state")
    with pytest.raises(ImportError, match="anywidget"):
        importlib.import_module("minimax_nb.widgets.playground.view")


# The widget


@pytest.fixture
def view(loaded):
    view = playground(*loaded, system=SYSTEM)
    ask(view, "set", name="max_new_tokens", value=12)
    return view


def ask(view, do, **rest) -> None:
    """What the page sends."""
    view._handle_custom_msg({"do": do, **rest}, [])


def shown(view) -> tuple:
    return view.messages, view.reply, view.busy


def test_the_page_asks_and_is_told(view, chat, brake):
    brake.hold(at=3)
    ask(view, "send", text="the sauce")
    brake.wait()
    assert (view.status, view.busy) == ("writing...", True) and view.reply is not None
    ask(view, "stop")
    assert view.status == "stopping..."
    brake.release()
    view.playground.wait(LONG)
    chat.send("the sauce", **GREEDY | {"max_new_tokens": 4})
    assert shown(view) == (chat.messages, None, False)
    ask(view, "regenerate")
    view.playground.wait(LONG)
    chat.undo()
    chat.send("the sauce", **GREEDY)
    assert shown(view) == (chat.messages, None, False)
    ask(view, "new_chat")
    assert shown(view) == ([{"role": "system", "content": SYSTEM}], None, False)
    assert (view.status, view.settings) == ("ready", start() | {"max_new_tokens": 12})
    ask(view, "send", text="the sauce")
    ask(view, "reset")
    assert shown(view) == ([{"role": "system", "content": SYSTEM}], None, False)
    assert (view.status, view.settings) == ("ready", start())


HALVES = "\ud83e", "a\udd5a"  # half of an emoji: what a page may send when one is cut in two
NONSENSE = [
    *[None, 3, "send", [], {}, {"do": None}, {"do": ["send"]}, {"do": "dance"}, {"do": "_end"}, {"do": "send"}],
    *[{"do": do, "text": text} for do in ("send", "set_system") for text in (*HALVES, 3, inf, None, ["a"], {})],
    *[
        {"do": "set", "name": c.name, "value": v}
        for c in CONTROLS
        for v in (inf, -inf, nan, 10**400, "1", True, [], {})
    ],
    *[{"do": "set", "name": name, "value": 1} for name in (None, 3, [], {}, "\ud83e", "top_q")],
    *[{"do": "look", "place": place} for place in ("1", 1.5, inf, nan, 10**400, True, [], {})],
]


@pytest.mark.parametrize("message", NONSENSE, ids=range(len(NONSENSE)))
def test_what_the_page_cannot_mean_is_said_and_nothing_starts(view, monkeypatch, message):
    heard = []
    monkeypatch.setattr(view, "send", heard.append)
    before = view.settings, view.messages, view.place
    view._handle_custom_msg(message, [])
    assert view.status.startswith("error: ") and heard == [{"heard": True}]
    assert "Error" not in view.status  # in words, not as an exception
    assert (view.busy, view.settings, view.messages, view.place) == (False, *before)
    state = {name: value for name, value in view.get_state().items() if name != "layout"}
    json.dumps(state, allow_nan=False, ensure_ascii=False).encode()  # as Jupyter sends it


def test_after_nonsense_the_chat_goes_on(view, chat):
    for message in NONSENSE:
        view._handle_custom_msg(message, [])
    ask(view, "new_chat")
    ask(view, "send", text="the sauce 🥚")
    view.playground.wait(LONG)
    chat.send("the sauce 🥚", **GREEDY)
    assert shown(view) == (chat.messages, None, False)


def test_nonsense_while_a_reply_is_written_does_not_stop_it(view, chat, brake):
    brake.hold(at=3)
    ask(view, "send", text="the sauce")
    brake.wait()
    for message in NONSENSE:
        view._handle_custom_msg(message, [])
        assert view.busy
    brake.release()
    view.playground.wait(LONG)
    chat.send("the sauce", **GREEDY)
    assert shown(view) == (chat.messages, None, False)


def test_the_page_looks_at_tokens_and_gives_a_system_prompt(view):
    ask(view, "set_system", text="only sauces")
    assert view.system == "only sauces" and view.messages[0]["content"] == "only sauces"
    ask(view, "send", text="the sauce")
    view.playground.wait(LONG)
    assert "".join(text for text, _ in view.tokens[0]) == view.messages[-1]["content"]
    assert (view.place, view.candidates["place"], view.growing) == (None, 11, [])
    ask(view, "look", place=3)
    assert (view.place, view.candidates) == (3, view.playground.candidates) and view.candidates["place"] == 3
    assert "only sauces" in view.code
    ask(view, "reset")
    assert (view.system, view.tokens, view.place, view.candidates, view.code) == (SYSTEM, [], None, None, "")


def test_a_fast_reply_is_drawn_at_intervals_and_its_end_at_once(view, monkeypatch):
    drawn = []
    view.observe(lambda change: drawn.append(change.new), "reply")
    monkeypatch.setattr(playground_view.time, "monotonic", lambda: 1e9)
    ask(view, "send", text="the sauce")
    view.playground.wait(LONG)
    reply = view.messages[-1]["content"]
    first = next(text for text in drawn if text)
    assert drawn == ["", first, None] and reply.startswith(first) and reply != first


def test_what_goes_to_the_page_is_json(view):
    state = {name: value for name, value in view.get_state().items() if name != "layout"}
    assert json.loads(json.dumps(state, allow_nan=False))["settings"]["seed"] is None
    ask(view, "send", text="the sauce")
    view.playground.wait(LONG)
    state = {name: value for name, value in view.get_state().items() if name != "layout"}
    assert len(json.loads(json.dumps(state, allow_nan=False))["tokens"][0]) == 12


def test_the_page_and_the_widget_use_the_same_names(view):
    page = (FOLDER / "playground" / "playground.js").read_text(encoding="utf-8")
    read = set(re.findall(r'model\.get\("(\w+)"\)', page))
    assert len(read) > 5 and read <= set(view.trait_names(sync=True))
    shared = (FOLDER / "page.js").read_text(encoding="utf-8")
    assert set(re.findall(r'\bask\("(\w+)"', page + shared)) == set(view.actions)


def test_the_wheel_contains_the_page():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in patterns["minimax_nb.widgets"] for path in FOLDER.glob(pattern)}
    assert {path for path in FOLDER.rglob("*.*") if path.suffix not in (".py", ".pyc")} == packed != set()


def test_a_still_picture_says_what_would_be_there(view):
    ask(view, "send", text="the <b>sauce</b> & more")
    view.playground.wait(LONG)
    bundle, _ = view._repr_mimebundle_()
    plain, page = bundle["text/plain"], bundle["text/html"]
    for text in (plain, page):
        assert "run this cell" in text.lower() and "Regenerate" in text
        assert all(control.label in text for control in CONTROLS) and SYSTEM in text
        assert "What else it could have been, token 12 of 12: " in text and text.count("(chosen)") == 1
    assert "You: the <b>sauce</b> & more" in plain and "the &lt;b&gt;sauce&lt;/b&gt; &amp; more" in page
    assert "application/vnd.jupyter.widget-view+json" in bundle and view._repr_mimebundle_()[0] == bundle
    first = view.candidates["rows"][0]
    figures = first["name"] + " (chosen)" * first["chosen"], *first["figures"]
    assert "Rank, Candidate, With the settings, Model alone\n" + ", ".join(["1", *figures]) in plain
    assert all(f"<td>{escape(figure)}</td>" in page for figure in figures)


def test_a_printed_notebook_shows_the_still_picture(view):
    bundle, _ = view._repr_mimebundle_()
    cell = nbformat.v4.new_code_cell("playground(model, tokenizer)", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("execute_result", bundle, execution_count=1)]
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert view.as_html() in page
