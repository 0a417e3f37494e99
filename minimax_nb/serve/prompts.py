"""Messages to ids, and where in a reply the thinking and the calls of tools are.

Transformers' handlers ask a tokenizer for the ids of a conversation. This one gives what `Chat` would feed: a special
token that somebody writes into a message stays text, so a message cannot end itself and begin another.
"""

import re

import torch
from transformers import BatchEncoding

from ..keys import MARKER
from ..prompts import Prompts

REPLY = "<beginning_of_sentence>ai name=assistant\n"
# In the language of Transformers' `response_template`. M1 thinks between <think> tags before it replies, and writes
# calls as lines of JSON between <tool_calls> tags (docs/function_call_guide.md of MiniMax-M1).
CONTENT = {"close": "<end_of_sentence>", "content": "text"}
THINKING = {"open_pattern": r"<think>\s*", "close_pattern": r"\s*</think>\s*|(?=<end_of_sentence>)", "content": "text"}
FIRST_CALL = r"\s*<tool_calls>\s*(?=\{)"
NEXT_CALL = r"(?<=\n)(?=\{)(?<=<tool_calls>(?:(?!</tool_calls>)[\s\S])*)"  # cheap questions first
CALLS = {
    "open_pattern": f"{FIRST_CALL}|{NEXT_CALL}",
    "close_pattern": r"\n(?=\{)|\s*</tool_calls>\s*",
    "content": "json",
    "repeats": True,
    "transform": {"type": "function", "function": {"name": "{content.name}", "arguments": "{content.arguments}"}},
}


class ServedTokenizer:
    """A tokenizer as Transformers' handlers use one. CheckpointError (a ValueError) if it has no chat template."""

    def __init__(self, tokenizer, response_template: dict | None = None):
        self._tokenizer_itself, self._prompts = tokenizer, Prompts(tokenizer)
        self.response_template = response_template

    def __getattr__(self, name: str):
        return getattr(self._tokenizer_itself, name)

    def __call__(self, *args, **kwargs):
        return self._tokenizer_itself(*args, **kwargs)

    def apply_chat_template(self, messages: list[dict], *, tools: list[dict] | None = None, **asked) -> BatchEncoding:
        """input_ids and attention_mask, (1, length), up to where the reply begins. Of `asked` only tools count."""
        if tools:
            asked_for = [tool.get("function", tool) for tool in tools]  # M1's guide shows them bare
            ids = self._prompts.first(messages, tools=asked_for)
        else:
            ids = self._prompts.first(messages)
        ids = torch.tensor([ids])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def response_template(model, tokenizer, tools: list | None = None) -> dict | None:
    """How to take a reply apart, or None if it is all text: for a model that thinks, and for requests with tools."""
    if own := getattr(tokenizer, "response_template", None):
        return own
    marker = getattr(model.config, MARKER, None) or {}
    thinks = marker.get("model_type") == "minimax_m1" or re.search("<think>", str(tokenizer.chat_template))
    fields = ({"reasoning_content": THINKING} if thinks else {}) | ({"tool_calls": CALLS} if tools else {})
    if not fields:
        return None
    return {"defaults": {"role": "assistant"}, "start_anchor": REPLY, "fields": fields | {"content": CONTENT}}
