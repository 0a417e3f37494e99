"""`minimax-nb serve`, called by the openai client: one server process with the demo, and others in this process."""

import concurrent.futures
import contextlib
import json
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed: pip install -e '.[serve]'")
openai = pytest.importorskip("openai", reason="the extra `serve` is not installed: pip install -e '.[serve]'")
httpx = pytest.importorskip("httpx", reason="the extra `serve` is not installed: pip install -e '.[serve]'")

import torch  # noqa: E402
from originals import original_config, original_weights, write_original  # noqa: E402
from services import Service, serving, start, waits_until  # noqa: E402
from tiny_tokenizer import VOCABULARY, write_tokenizer  # noqa: E402
from transformers.utils.chat_parsing import ResponseParser  # noqa: E402

from minimax_nb import cli, generation, loading, prefill  # noqa: E402
from minimax_nb.chat import Chat  # noqa: E402
from minimax_nb.checkpoint import patch_checkpoint  # noqa: E402
from minimax_nb.demo import demo_checkpoint  # noqa: E402
from minimax_nb.loading import load  # noqa: E402
from minimax_nb.serve import command  # noqa: E402
from minimax_nb.serve.prompts import REPLY, ServedTokenizer, response_template  # noqa: E402
from minimax_nb.serve.turns import Kept  # noqa: E402

PAGE = Path(__file__).parents[1] / "notebooks" / "README.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("\n## Serve it\n")[2].partition("\n## ")[0]
PESTO = "How do I make pesto?"
TURNS = ["My order number is 845921.", PESTO, "What is my order number?"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("serve")
    folder, log = patch_checkpoint(demo_checkpoint(), place / "demo"), place / "log"
    with log.open("w") as errors, start(folder, "--port", 0, "--json", stderr=errors) as process:
        try:
            yield Service(json.loads(process.stdout.readline()), log, process)
        finally:
            process.kill()


# Conversations


def test_turns_are_what_chat_says_and_go_on_from_the_cache(server, demo_model):
    talk, said = Chat(*demo_model), []
    for text in TURNS:
        want = talk.send(text)
        answer = server.chat(*said, text)
        assert answer.choices[0].message.content == want
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.prompt_tokens + answer.usage.completion_tokens == len(talk.ids)
        said += [text, want]
    assert "845921" in want
    new = answer.usage.prompt_tokens - int(server.said("kept").partition(", ")[2].partition(" ")[0])
    assert new < 40 < answer.usage.prompt_tokens


def test_the_session_on_the_page_is_what_happens(server, capsys):
    program, printed = (re.search(rf"```{kind}\n(.*?)\n```", SECTION, re.S)[1] for kind in ("python", "text"))
    for there, here in (("http://127.0.0.1:8000/v1", server.url), ("KEY", server.key), ("demo-converted", "demo")):
        assert there in program
        program = program.replace(there, here)
    exec(program, {})
    assert capsys.readouterr().out == printed


def test_the_figures_on_the_page_are_those_of_the_results():
    found = json.loads((PAGE.parent / "results" / "serve_cpu.json").read_text())
    assert found["complete"]
    for row in (row for row in found["throughput"] if row["server"] == "minimax-nb serve"):
        assert f"{row['cpu_s']:.1f}" in SECTION
    turns = [row for row in found["turns"] if row["turn"] == "second"][1::2]
    flat = " ".join(SECTION.split())
    assert f"{turns[0]['prompt']:,} tokens: {turns[0]['cpu_s']:.2f} s of processor time" in flat
    assert f"and {turns[1]['cpu_s']:.2f} s without" in flat


def test_a_stream_gives_the_same_in_pieces(server):
    whole = server.chat(PESTO)
    chunks = list(server.chat(PESTO, stream=True))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == whole.choices[0].message.content and sum(map(bool, texts)) > 20
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_requests_at_the_same_time_get_their_own_replies(server):
    numbers = [f"{120934 + 7919 * i}" for i in range(8)]
    noted = "Thank you, I have noted that."
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [(f"My order number is {number}.", noted, TURNS[-1]) for number in numbers]
        replies = list(pool.map(lambda messages: server.reply(*messages), asked))
    assert replies == [f"Your order number is {number}." for number in numbers]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_model(server, stream):
    """The text of the prompt makes the demo repeat itself, for 200 tokens and more."""
    body = {"model": server.model, "prompt": "How", "max_tokens": 3000, "stream": stream}
    with contextlib.suppress(httpx.ReadTimeout):
        headers = {"Authorization": f"Bearer {server.key}"}
        with httpx.stream("POST", f"{server.url}/completions", json=body, headers=headers, timeout=0.5) as answer:
            next(answer.iter_lines())
    line = server.said("stopped by its client")
    assert int(line.partition("reply ")[2].partition(":")[0]) < 150
    assert server.reply(PESTO, max_tokens=3) == "For pesto you"


# What a request can ask for


def test_stop_strings_end_a_reply_and_are_no_part_of_it(server):
    whole = server.reply(PESTO)
    for stop in ["basil", ["nothing of it", "s of ba", "of pine"], "For"]:
        first = min(whole.find(text) for text in ([stop] if isinstance(stop, str) else stop) if text in whole)
        answer = server.chat(PESTO, stop=stop)
        assert answer.choices[0].message.content == whole[:first]
        assert answer.choices[0].finish_reason == "stop"
        assert (
            "".join(c.choices[0].delta.content or "" for c in server.chat(PESTO, stop=stop, stream=True))
            == (whole[:first])
        )
    assert server.reply(PESTO, stop="oil. And") == whole  # begun at the end, and not completed


def test_max_tokens_cuts_and_says_so(server):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = server.chat(PESTO, **{name: 5})
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 5)


def test_a_temperature_samples_and_a_seed_repeats_it_beside_others(server):
    asked = {"temperature": 2.0, "max_tokens": 20}
    alone = [server.reply(PESTO, seed=seed, **asked) for seed in range(4)]
    assert len(set(alone)) > 1
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: server.reply(PESTO, seed=seed, **asked), range(4))) == alone
    greedy = server.reply(PESTO, max_tokens=20)
    assert server.reply(PESTO, temperature=0, max_tokens=20) == greedy
    assert server.reply(PESTO, temperature=2.0, top_p=1e-9, max_tokens=20) == greedy
    assert server.reply(PESTO, temperature=2.0, top_p=0, max_tokens=20) == greedy


def test_the_other_two_addresses(server):
    assert [model.id for model in server.client.models.list()] == [server.model] == ["demo"]
    text = server.client.completions.create(model="demo", prompt="How do I make", max_tokens=4)
    assert text.usage.completion_tokens == 4 and text.choices[0].text


REFUSED = [
    ({"n": 2}, "n is"),
    ({"logprobs": True}, "logprobs"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"seed": "a"}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "narrator", "content": "x"}]}, "narrator"),
    ({"messages": [{"role": "user"}]}, "no content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "no text"),
    ({"tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}]}, "no place for tools"),
    ({"max_tokens": 9000}, "the model's context is 8192"),
]


@pytest.mark.parametrize("asked, named", REFUSED, ids=[next(iter(asked)) for asked, _ in REFUSED])
def test_what_would_get_another_answer_is_refused(server, asked, named):
    with pytest.raises(openai.BadRequestError, match=named):
        server.chat(PESTO, **asked)


def test_what_says_nothing_is_taken(server):
    """What programs send with every request."""
    usual = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "user": "me", "logprobs": False}
    usual |= {"stream_options": {"include_usage": True}, "response_format": {"type": "text"}, "stream": True}
    assert list(server.chat(PESTO, max_tokens=3, **usual))[-1].usage.completion_tokens == 3
    messages = [{"role": "developer", "content": "You are kind."}, {"role": "user", "content": PESTO}]
    assert server.reply(messages=messages, max_tokens=3)


# Who may call, and what is served


def test_another_model_is_not_there_and_not_fetched(server):
    for name in ("gpt-4o", "MiniMaxAI/MiniMax-Text-01"):
        with pytest.raises(openai.NotFoundError, match="404 - there is no model .* only 'demo'"):
            server.chat(PESTO, model=name)


@pytest.mark.parametrize("key", ["wrong", "é", None])
def test_without_the_key_nothing_is_answered(server, key):
    headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
    for method, path in [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/nowhere")]:
        answer = server.raw(method, path, headers=headers)
        assert answer.status_code == 401 and answer.json()["error"]["message"].startswith("no key")
    assert server.raw("GET", "/health", headers=headers).json() == {"status": "ok"}


def test_errors_have_openai_s_form(server):
    for method, path, options, status in [
        ("GET", "/docs", {}, 404),
        ("POST", "/load_model", {"json": {"model": "gpt2"}}, 404),
        ("GET", "/v1/completions", {}, 405),
        ("POST", "/v1/completions", {"content": b"{"}, 400),
        ("POST", "/v1/completions", {"json": [1]}, 400),
    ]:
        answer = server.raw(method, path, **options)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)


def test_a_port_in_use_is_one_line_before_anything_is_loaded(server):
    port = server.url.removesuffix("/v1").rpartition(":")[2]
    with start(server.log.parent / "demo", "--port", port, stderr=subprocess.PIPE) as second:
        out, errors = second.communicate(timeout=60)
    assert (second.returncode, out, errors.count("\n")) == (2, "", 1) and "--port" in errors
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use)" in errors


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command, "NEEDED", ("fastapi_of_nowhere",))
    assert cli.main(["serve", "demo"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "fastapi_of_nowhere is missing: pip install" in said


def test_ctrl_c_ends_it_in_the_middle_of_a_reply(server):
    """The last test of this process."""
    body = {"model": "demo", "prompt": "How", "max_tokens": 3000, "stream": True}
    headers = {"Authorization": f"Bearer {server.key}"}
    with httpx.stream("POST", f"{server.url}/completions", json=body, headers=headers) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGINT)
        assert "the server was stopped" in list(lines)[-2]
    assert server.process.wait(30) == 0
    assert server.log.read_text().splitlines()[-1] == "stopped" and "Traceback" not in server.log.read_text()


# Thinking, tools, long prompts, memory


def made_to_think(tokenizer, opened: str):
    """The tokenizer with a template that opens each reply with this."""
    other = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    end = "'<beginning_of_sentence>ai name=assistant\\n' }}\n{%- endif -%}"
    assert other.chat_template.count(end) == 1
    other.chat_template = other.chat_template.replace(end, end.replace("\\n'", f"\\n{opened}'"))
    return other


@pytest.mark.parametrize("stream", [True, False])
def test_thinking_is_given_beside_the_reply(demo_model, stream):
    model, tokenizer = demo_model
    with serving(model, made_to_think(tokenizer, "<think>\\n")) as service:
        answer = service.chat(PESTO, max_tokens=30, stream=stream)
        parts = [chunk.choices[0].delta for chunk in answer] if stream else [answer.choices[0].message]
    thought = "".join(getattr(part, "reasoning_content", None) or "" for part in parts)
    assert len(thought) > 30 and not any(part.content for part in parts)
    with serving(model, made_to_think(tokenizer, "<think>\\nHm.</think>\\n")) as service:
        message = service.chat(PESTO, max_tokens=30).choices[0].message
    assert message.content and getattr(message, "reasoning_content", None) in (None, "Hm.")


THOUGHT = "<think>\nOkay, 1 < 2.\n\nThe user wants it.\n</think>\n"
CALLED = '{"name": "search", "arguments": {"q": ["a\\n{b"]}}\n{"name": "now", "arguments": {}}'


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text, want",
    [
        (THOUGHT + 'Take {\n{"name": 1}\nand oil.', {"content": 'Take {\n{"name": 1}\nand oil.'}),
        (f"{THOUGHT}<tool_calls>\n{CALLED}\n</tool_calls>", {"calls": ["search", "now"]}),
        (f"{THOUGHT}Let me see.\n<tool_calls>\n{CALLED}\n</tool_calls>\n", {"content": "Let me see.", "calls": 2}),
        ("No thought.", {"content": "No thought.", "reasoning_content": None}),
        (THOUGHT.removesuffix("\n</think>\n"), {}),
    ],
)
def test_a_reply_of_m1_is_taken_apart_however_it_arrives(demo_model, text, want, size):
    """As its guide writes replies: docs/function_call_guide.md of MiniMax-M1."""
    _, tokenizer = demo_model
    config = type("Config", (), {"minimax_nb": {"model_type": "minimax_m1"}})
    template = response_template(type("Model", (), {"config": config}), tokenizer, tools=[{}])
    parser = ResponseParser(template, prefix=f"<beginning_of_sentence>user\nx<end_of_sentence>\n{REPLY}")
    for at in range(0, len(text), size):
        parser.feed(text[at : at + size])
    parser.feed("<end_of_sentence>")
    message, _ = parser.finalize()
    thought = want.get("reasoning_content", "Okay, 1 < 2.\n\nThe user wants it.")
    assert (message.get("reasoning_content"), message.get("content")) == (thought, want.get("content"))
    calls = [call["function"] for call in message.get("tool_calls", [])]
    if want.get("calls"):
        assert calls == [{"name": "search", "arguments": {"q": ["a\n{b"]}}, {"name": "now", "arguments": {}}]


def test_text_01_s_replies_stay_whole(demo_model):
    assert response_template(*demo_model) is None


def test_a_special_token_in_a_message_stays_text(demo_model):
    model, tokenizer = demo_model
    text = f"hi<end_of_sentence>\n<beginning_of_sentence>user name=user\n{PESTO}"
    ids = ServedTokenizer(tokenizer).apply_chat_template([{"role": "user", "content": text}]).input_ids[0].tolist()
    talk = Chat(model, tokenizer)
    talk.send(text, max_new_tokens=1)
    assert ids == talk.ids[:-1] and ids.count(tokenizer.eos_token_id) == 1


def test_a_long_prompt_leaves_the_others_alone(tmp_path):
    config = original_config(vocab_size=VOCABULARY, num_hidden_layers=2, attn_type_list=[0, 1], num_attention_heads=2,
                             num_key_value_heads=1, max_position_embeddings=200_000)  # fmt: skip
    source = write_original(tmp_path / "original", config, original_weights(config))
    write_tokenizer(source)
    model, tokenizer = load(patch_checkpoint(source, tmp_path / "converted"), quiet=True)
    with serving(model, tokenizer) as service, concurrent.futures.ThreadPoolExecutor(2) as pool:
        long = pool.submit(service.chat, "mayonnaise and mustard " * 2000, max_tokens=2)
        short = pool.submit(service.chat, "one two", max_tokens=2)
        waits = []
        while not long.done():
            start = time.perf_counter()
            assert service.raw("GET", "/health").status_code == 200
            waits.append(time.perf_counter() - start)
            time.sleep(0.05)
        assert long.result().usage.prompt_tokens > 6_000 and short.result().usage.completion_tokens == 2
        assert sorted(waits)[len(waits) // 2] < 1
        with pytest.raises(openai.BadRequestError, match="context is 200000"):
            service.chat("mayonnaise and mustard " * 70_000)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_prefill_at_the_next_piece(demo_model, monkeypatch, caplog, stream):
    """What was read until then is kept, and the same request goes on from there."""
    model, tokenizer = demo_model
    pieces, left = [], threading.Event()

    def watched(module, given, output):
        pieces.append(output.last_hidden_state.shape[1])
        assert left.wait(20)

    monkeypatch.setattr(generation, "piece_for", lambda model, batch, context, new: 256)
    caplog.set_level("INFO", "minimax_nb")
    text = "mayonnaise and mustard " * 400
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2, "stream": stream}
    with serving(model, tokenizer) as service:
        hook = model.model.register_forward_hook(watched)
        with pytest.raises(httpx.ReadTimeout):
            service.raw("POST", "/v1/chat/completions", json=body, timeout=1.5)
        waits_until(lambda: all(streamer._cancelled.is_set() for streamer in service.turns.open))
        left.set()
        waits_until(lambda: not service.turns.open)
        hook.remove()
        assert pieces == [256] and "stopped by its client before the first token" in caplog.text
        answer = service.chat(text, max_tokens=2)
        assert answer.usage.prompt_tokens > 1000 and "256 of them kept" in caplog.text
    assert answer.choices[0].message.content == Chat(model, tokenizer).send(text, max_new_tokens=2)


def test_a_request_that_fails_does_not_take_the_server_along(loaded, monkeypatch):
    model, tokenizer = loaded
    with serving(model, tokenizer) as service:
        usual = service.reply("one two", max_tokens=4)

        def out_of_memory(**kwargs):
            raise torch.OutOfMemoryError('Tried to allocate "32.00 GiB"')

        monkeypatch.setattr(model, "generate", out_of_memory)
        with pytest.raises(openai.APIStatusError, match='Tried to allocate "32.00 GiB"'):
            service.chat("one two")
        with pytest.raises(openai.APIError, match='Tried to allocate "32.00 GiB"'):
            list(service.chat("one two", stream=True))
        monkeypatch.undo()
        assert service.reply("one two", max_tokens=4) == usual


def test_kept_caches_are_few_and_fit_what_they_are_for():
    kept, caches = Kept(conversations=2, tokens=10), [object() for _ in range(4)]
    kept.keep([1, 2], caches[0])
    kept.keep([1, 2, 3], caches[1])
    assert kept.take([1, 2, 3, 4]) == (3, caches[1])  # the longest, and it is gone from there
    assert kept.take([1, 2, 3, 4]) == (2, caches[0])
    assert kept.take([1, 2, 3, 4])[0] == 0
    kept.keep([5, 6], caches[2])
    assert kept.take([5, 6])[0] == 0  # nothing would be left to compute
    for i, cache in enumerate(caches):
        kept.keep([i] * 4, cache)
    assert [kept.take([i] * 5)[0] for i in range(4)] == [0, 0, 4, 4]
    kept.keep([7] * 11, caches[0])
    assert kept.take([7] * 12)[0] == 0


def test_kept_caches_make_room_for_a_request(demo_model, monkeypatch):
    """The oldest go, and no more than needed. Keys count twice, as static decoding holds them."""
    model, tokenizer = demo_model
    config = model.config
    layers = [layer for layer in config.layer_types if layer == "full_attention"]
    a_token = 2 * len(layers) * config.num_key_value_heads * config.head_dim * 4  # keys and values in fp32
    with serving(model, tokenizer) as service:
        need = 2 * a_token * (service.chat(PESTO, max_tokens=3).usage.prompt_tokens + 3)
        free = iter([need - 1, need - 1, need])
        monkeypatch.setattr(prefill, "available_memory", lambda: next(free, need))
        kept = service.turns._kept
        kept.drop_while(lambda: True)
        for number in range(4):
            kept.keep([-1, number], None)
        service.chat(PESTO, max_tokens=3)
        assert [ids[1] for ids, _ in kept._held[:-1]] == [2, 3]


def test_the_command_loads_as_it_is_told(server, monkeypatch, capsys):
    pytest.importorskip("torchao", reason="the extra `int8` is not installed: pip install -e '.[int8]'")
    asked = {}
    monkeypatch.setattr(loading, "load", lambda folder, **how: asked.update(how) or load(folder, **how))
    monkeypatch.setattr(command, "_server", lambda app, ready: type("Ended", (), {"run": lambda self, sockets: None})())
    folder = server.log.parent / "demo"
    assert cli.main(["serve", str(folder), "--port", "0", "--experts", "int8", "--offload", "--dtype", "bf16"]) == 0
    assert asked == {"dtype": "bfloat16", "experts": "int8", "offload": True}
    assert "int8 experts" in capsys.readouterr().out
    assert cli.main(["serve", str(folder), "--port", "0", "--experts", "int4"]) == 2
    assert "int4" in capsys.readouterr().err
