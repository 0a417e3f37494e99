"""The lines before a chat template: messages as clients send them, rendered by Transformers' own jinja environment."""

import json

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from minimax_nb.checkpoint.chat_templates import prefix_template

# What MiniMax-M1's template reads: the text and the name of parts, the role "tool", tools; and no tool_calls.
KNOWS_TOOLS = """\
{%- if tools %}{% for tool in tools %}<tool>{{ tool.name }}{% endfor %}{% endif -%}
{%- for message in messages -%}
[{{ message['role'] }}]
{%- for part in message['content'] -%}
{%- if message['role'] == 'tool' %}{{ part['name'] + '=' }}{% endif -%}
{{ part['text'] }}
{%- endfor -%}
{%- endfor -%}"""
# What Text-01's reads: texts, and three roles.
PLAIN = """\
{%- for message in messages -%}
{%- if message['role'] in ['system', 'user', 'assistant'] -%}
[{{ message['role'] }}]{{ message['content'][0]['text'] }}
{%- endif -%}
{%- endfor -%}"""
WRITES_CALLS = KNOWS_TOOLS + (
    "{%- for message in messages %}{% for call in message.tool_calls or [] %}!{{ call.name }}{% endfor %}{% endfor %}"
)
ASKED = {"role": "user", "content": "Weather in Paris and Rome?"}


def call(city: str, *, id=None, name="weather", as_text=False, bare=False) -> dict:
    """A call as Transformers' docs write it, with an object of arguments; OpenAI's API returns text and an id."""
    arguments = {"city": city, "unit": "°C"}
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False) if as_text else arguments}
    return function if bare else {"type": "function", "function": function} | ({"id": id} if id else {})


def called(*calls: dict, content=None) -> dict:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def rendered(template: str, messages: list[dict], **options) -> str:
    before = json.dumps(messages)
    (text,), _ = render_jinja_template([messages], chat_template=prefix_template(template), **options)
    assert json.dumps(messages) == before
    return text


PARIS = '{"name": "weather", "arguments": {"city": "Paris", "unit": "°C"}}\n'
ROME = PARIS.replace("Paris", "Rome")


@pytest.mark.parametrize("content", [None, "", [], "Let me see.", [{"type": "text", "text": "Let me see."}]])
@pytest.mark.parametrize("options", [{}, {"as_text": True}, {"bare": True}])
def test_calls_are_written_as_the_model_writes_them(content, options):
    text = rendered(KNOWS_TOOLS, [ASKED, called(call("Paris", **options), call("Rome", **options), content=content)])
    said = "Let me see.\n" if content else ""
    assert text == f"[user]{ASKED['content']}[assistant]{said}<tool_calls>\n{PARIS}{ROME}</tool_calls>"


def test_a_missing_content_is_an_empty_one():
    message = {"role": "assistant", "tool_calls": [call("Paris")]}
    assert rendered(KNOWS_TOOLS, [message]) == f"[assistant]<tool_calls>\n{PARIS}</tool_calls>"
    assert '"arguments": {}' in rendered(KNOWS_TOOLS, [called({"name": "now", "arguments": ""})])


@pytest.mark.parametrize(
    "calls, results, want",
    [
        ([call("Paris")], [{"name": "weather"}], ["weather"]),
        ([call("Paris")], [{"name": "own"}], ["own"]),
        ([call("Paris")], [{}], ["weather"]),
        ([call("Paris")], [{"tool_call_id": "c1"}], ["weather"]),  # no call has an id
        ([call("Paris", bare=True)], [{}], ["weather"]),
        ([call("Paris", id="c1")], [{"tool_call_id": "c1"}], ["weather"]),
        (
            [call("Paris", id="c1"), call("Rome", id="c2", name="news")],
            [{"tool_call_id": "c2"}, {"tool_call_id": "c1"}],
            ["news", "weather"],
        ),
        ([call("Paris"), call("Rome", name="news")], [{}, {}], ["weather", "news"]),
    ],
)
@pytest.mark.parametrize("as_parts", [True, False])
@pytest.mark.parametrize("template", [KNOWS_TOOLS, WRITES_CALLS], ids=["M1", "writes calls"])
def test_a_result_has_the_name_of_its_tool(calls, results, want, as_parts, template):
    content = [{"type": "text", "text": "22"}] if as_parts else "22"
    messages = [ASKED, called(*calls), *({"role": "tool", "content": content, **result} for result in results)]
    text = rendered(template, messages)
    assert [part.partition("=")[0] for part in text.split("[tool]")[1:]] == want
    assert text.count("=22") == len(want)


def test_a_name_in_the_part_is_kept():
    parts = [{"type": "text", "text": "22", "name": "weather"}]
    assert rendered(KNOWS_TOOLS, [{"role": "tool", "content": parts}]) == "[tool]weather=22"


def test_a_template_that_writes_calls_itself_is_left_to_it():
    text = rendered(WRITES_CALLS, [called(call("Paris", bare=True), content="So:")])
    assert text == "[assistant]So:!weather"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "tool", "content": "22"}],
        [called(call("Paris", id="c1")), {"role": "tool", "tool_call_id": "c2", "content": "22"}],
        [called(call("Paris")), {"role": "tool", "content": "22"}, {"role": "tool", "content": "23"}],
    ],
)
def test_a_result_of_no_call_is_refused(messages):
    with pytest.raises(TemplateError, match="no name"):
        rendered(KNOWS_TOOLS, messages)


@pytest.mark.parametrize(
    "messages, options",
    [
        ([ASKED, called(call("Paris"))], {}),
        ([ASKED, {"role": "tool", "name": "weather", "content": "22"}], {}),
        ([ASKED], {"tools": [{"name": "weather", "description": "d", "parameters": {}}]}),
    ],
)
def test_a_template_without_tools_refuses_them(messages, options):
    with pytest.raises(TemplateError, match="no place for tool"):
        rendered(PLAIN, messages, **options)


def test_no_calls_are_no_calls():
    messages = [ASKED, {"role": "assistant", "content": "Rain.", "tool_calls": []}]
    want = f"[user]{ASKED['content']}[assistant]Rain."
    assert rendered(PLAIN, messages, tools=[]) == rendered(KNOWS_TOOLS, messages, tools=[]) == want
    tools = [{"name": "weather", "description": "d", "parameters": {}}]
    assert rendered(KNOWS_TOOLS, messages, tools=tools) == "<tool>weather" + want
