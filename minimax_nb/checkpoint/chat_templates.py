"""MiniMax's chat templates, taught to read the messages that Transformers and OpenAI clients send.

The templates of Text-01 and M1 read `message['content'][0]['text']`, so a content that is a plain string
fails. M1's reads the name of a tool from the part of its result, where no client puts it, and skips
`tool_calls` altogether, so the model would see results of calls that it never made. `prefix_template` puts a
few lines before a template which bring messages into the form that it reads. The template itself stays as it
is.

Calls are written as M1 writes its own (docs/function_call_guide.md of MiniMax-M1): a line of JSON each,
between <tool_calls> tags, after the text. A template that knows no tools gets lines that refuse them: what is
left out of a prompt in silence is missed much later.
"""

import re
from collections.abc import Callable

# Each piece is a part of one loop over the messages. `parts` is the content of a message as a list.
BEGIN = r"""{#- Contents become lists of parts, which the template below reads: {"type": "text", "text": ...}. -#}
{%- set seen = namespace(messages=[], calls=[], latest=[], results=0) -%}
{%- for message in messages -%}
    {%- set parts = message.content or "" if message.tool_calls else message.content -%}
    {%- if parts is string -%}
        {%- set parts = [{"type": "text", "text": parts}] -%}
    {%- endif -%}"""
NAME_RESULTS = r"""
    {#- A result needs the name of its tool: given, of the call with its id, or of the call in its place. -#}
    {%- if message.tool_calls -%}
        {%- set seen.calls = seen.calls + message.tool_calls | list -%}
        {%- set seen.latest = message.tool_calls | list -%}
        {%- set seen.results = 0 -%}
    {%- elif message.role == "tool" and parts -%}
        {%- set tool = namespace(name=message.name) -%}
        {%- for call in seen.calls if not message.name and call.id and call.id == message.tool_call_id -%}
            {%- set tool.name = (call.function or call).name -%}
        {%- endfor -%}
        {%- set call = seen.latest[seen.results] if seen.results < seen.latest | length -%}
        {%- if not tool.name and call and not call.id -%}
            {%- set tool.name = (call.function or call).name -%}
        {%- endif -%}
        {%- set seen.results = seen.results + 1 -%}
        {%- set named = namespace(parts=[]) -%}
        {%- for part in parts -%}
            {%- if not (part.name or tool.name) -%}
                {{- raise_exception("a tool result has no name, and no call has its tool_call_id") -}}
            {%- endif -%}
            {%- set named.parts = named.parts + [dict(part, name=part.name or tool.name)] -%}
        {%- endfor -%}
        {%- set parts = named.parts -%}
    {%- endif -%}"""
WRITE_CALLS = r"""
    {#- Calls become text, as the model writes them. -#}
    {%- if message.tool_calls -%}
        {%- set lines = namespace(text="<tool_calls>\n") -%}
        {%- for call in message.tool_calls -%}
            {%- set call = call.function or call -%}
            {%- set arguments = call.arguments or {} -%}
            {%- set arguments = arguments if arguments is string else arguments | tojson -%}
            {%- set start = '{"name": ' + call.name | tojson + ', "arguments": ' -%}
            {%- set lines.text = lines.text + start + arguments + "}\n" -%}
        {%- endfor -%}
        {%- set before = parts[-1].text + "\n" if parts[-1].text else "" -%}
        {%- set parts = parts[:-1] + [dict(parts[-1], text=before + lines.text + "</tool_calls>")] -%}
    {%- endif -%}"""
REFUSE_CALLS = r"""
    {%- if message.tool_calls or message.role == "tool" -%}
        {{- raise_exception("this chat template has no place for tool calls and results: leave them out") -}}
    {%- endif -%}"""
END = r"""
    {%- set seen.messages = seen.messages + [dict(message, content=parts) if parts else message] -%}
{%- endfor -%}
{%- set messages = seen.messages -%}"""
REFUSE_TOOLS = r"""
{%- if tools -%}
    {{- raise_exception("this chat template has no place for tools: leave them out") -}}
{%- endif -%}"""
# The empty expression keeps jinja from eating a newline that the template starts with; `{%-` alone would.
LAST = '\n{{- "" }}'

READS_LISTS = re.compile(r"""\[\s*['"]text['"]\s*\]|\.text\b|\.get\(\s*['"]text['"]""")
READS_CALLS = re.compile(r"""\[\s*['"]tool_calls['"]\s*\]|\.tool_calls\b|\.get\(\s*['"]tool_calls['"]""")
KNOWS_RESULTS = re.compile(r"""['"]tool['"]""")  # the role of a message
KNOWS_TOOLS = re.compile(r"\btools\b")


def prefix_template(template: str) -> str:
    """The template behind lines that bring messages into its form. One that reads no lists stays as it is."""
    if not READS_LISTS.search(template):
        return template
    pieces = [BEGIN]
    if READS_CALLS.search(template):
        pieces += [NAME_RESULTS]
    elif KNOWS_RESULTS.search(template):
        pieces += [NAME_RESULTS, WRITE_CALLS]
    else:
        pieces += [REFUSE_CALLS]
    pieces += [END]
    if not KNOWS_TOOLS.search(template):
        pieces += [REFUSE_TOOLS]
    return "".join([*pieces, LAST, template])


def without_prefix(template: str) -> str:
    """The template that `prefix_template` was given. One that it did not write stays as it is."""
    first = template.partition(LAST)[2]
    return first if prefix_template(first) == template else template


def each_template(setting, change: Callable[[str], str]):
    """The chat_template of a tokenizer_config.json with each of its templates changed: one, or several with names."""
    if isinstance(setting, str):
        return change(setting)
    if isinstance(setting, list):
        return [entry | {"template": change(entry["template"])} for entry in setting]
    if isinstance(setting, dict):
        return {name: change(template) for name, template in setting.items()}
    return setting
