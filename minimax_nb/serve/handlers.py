"""What a request may ask for, and how it becomes a GenerationConfig.

Transformers' handlers pass over in silence what they do not support. Here a request that would get another answer than
it asked for is refused, with status 400 and a line that names the field.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator

from fastapi import HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from openai.types import Completion, CompletionChoice, CompletionUsage
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.utils import Modality, ReasoningText, ToolCall, _StreamError, build_response_parser

from ..chat import LOWEST_TEMPERATURE
from .prompts import ServedTokenizer, response_template
from .turns import Asked

ROLES = ("system", "developer", "user", "assistant", "tool")
STREAM_ERROR = 'data: {"error": "'  # how Transformers' handlers begin the event of an error; a text would be escaped
HOTTEST = 2  # the largest temperature of OpenAI's API
# Fields that would change the answer, and the values with which they do not.
ONLY = {
    "n": [1],
    "best_of": [1],
    "logprobs": [False, 0],
    "top_logprobs": [0],
    "echo": [False],
    "suffix": [""],
    "presence_penalty": [0],
    "frequency_penalty": [0],  # Transformers would take it as a repetition_penalty, which is another formula
    "logit_bias": [{}],
    "response_format": [{"type": "text"}],
    "tool_choice": ["auto"],
    "functions": [[]],
    "function_call": [],
    "modalities": [["text"]],
    "audio": [],
    "prediction": [],
    "web_search_options": [],
    "generation_config": [],
}


class TheModel:
    """In place of Transformers' ModelManager: the one model that is loaded, under its name, and no way to another."""

    def __init__(self, name: str, model, tokenizer, max_new_tokens: int):
        self.name, self.model, self.tokenizer, self.max_new_tokens = name, model, tokenizer, max_new_tokens
        ServedTokenizer(tokenizer)  # refuses one that has no chat template

    def get_model_modality(self, model, processor=None) -> Modality:
        return Modality.LLM


class _OfOneModel:
    """What both handlers do otherwise than Transformers' own."""

    def _validate_request(self, body: dict) -> None:
        for field, allowed in ONLY.items():
            if body.get(field) is not None and body[field] not in allowed:
                raise refusal(f"{field} is not supported" + (f": only {allowed[0]!r} is" if allowed else ""))
        for field in ("max_tokens", "max_completion_tokens"):
            if (value := body.get(field)) is not None and not (type(value) is int and value >= 1):
                raise refusal(f"{field} is {value!r}: give a whole number of 1 or more")
        for field, most in (("temperature", HOTTEST), ("top_p", 1)):
            value = body.get(field)
            if value is not None and not (type(value) in (int, float) and 0 <= value <= most):
                raise refusal(f"{field} is {value!r}: give a number from 0 to {most}")
        if (seed := body.get("seed")) is not None and type(seed) is not int:
            raise refusal(f"seed is {seed!r}: give a whole number")
        stop = _listed(body.get("stop"))
        if not all(isinstance(text, str) and text for text in stop):
            raise refusal("stop: give a string, or a list of strings, none of them empty")
        super()._validate_request(body)

    def _resolve_model(self, body: dict) -> tuple:
        served, asked = self.model_manager, body.get("model")
        if asked not in (None, served.name):
            raise HTTPException(404, f"there is no model {asked!r} here, only {served.name!r}: nothing is downloaded")
        template = response_template(served.model, served.tokenizer, body.get("tools"))
        return served.name, served.model, ServedTokenizer(served.tokenizer, template)

    def _build_generation_config(self, body: dict, folder: GenerationConfig, use_cb: bool = False) -> GenerationConfig:
        """The folder's settings, and over them the request's. Sampling begins where it names a temperature or top_p."""
        taken = {"seed", "stop", "temperature"}  # Transformers seeds at once, in the middle of another reply
        config = super()._build_generation_config({k: v for k, v in body.items() if k not in taken}, folder)
        limited = body.get("max_completion_tokens") is not None or body.get("max_tokens") is not None
        if not limited:
            config.max_new_tokens = folder.max_new_tokens or self.model_manager.max_new_tokens
        temperature, top_p = body.get("temperature"), body.get("top_p")
        if temperature is not None or top_p is not None:
            config.temperature = 1.0 if temperature is None else float(temperature)
            config.do_sample = config.temperature >= LOWEST_TEMPERATURE and top_p != 0
            config.top_k = 0 if folder.top_k is None else folder.top_k  # 50 otherwise, which nobody asked for
        if not config.do_sample:
            config.temperature = config.top_p = config.top_k = None
        config.num_beams = config.num_return_sequences = 1  # a folder's own are not for a conversation
        config.asked = Asked(body.get("seed"), tuple(_listed(body.get("stop"))), limited)
        return config

    async def _gathered(self, *given, tools: list | None = None) -> tuple[list, int, int]:
        """What a reply consists of, and how many tokens prompt and reply have. Cancelled, it frees the model."""
        request_id, model, processor, _, inputs, config, turns = given
        parser = build_response_parser(processor, model, inputs["input_ids"], tools=tools)
        queue, streamer = turns.generate_streaming(model, processor, inputs, config, request_id, parser)
        items = []
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, _StreamError):
                    raise HTTPException(503, json.loads(f'"{item.msg}"'))
                items.append(item)
        except asyncio.CancelledError:
            streamer.cancel()
            raise
        return items, inputs["input_ids"].shape[1], streamer.total_tokens

    def _streaming(self, *given, **asked) -> StreamingResponse:
        answer = super()._streaming(*given, **asked)
        answer.body_iterator = _as_openai_ends(answer.body_iterator)
        return answer


class Chats(_OfOneModel, ChatCompletionHandler):
    """/v1/chat/completions"""

    def _validate_request(self, body: dict) -> None:
        super()._validate_request(body)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise refusal("messages: give a list of at least one message")
        body["messages"] = [_message(message) for message in messages]

    async def _non_streaming(self, request_id, model, processor, model_id, inputs, gen_config, gen_manager, tools=None):
        given = (request_id, model, processor, model_id, inputs, gen_config, gen_manager)
        items, prompt, count = await self._gathered(*given, tools=tools)
        thought = "".join(item for item in items if isinstance(item, ReasoningText))
        content = "".join(item for item in items if type(item) is str)
        functions = [{"name": item.name, "arguments": item.arguments} for item in items if isinstance(item, ToolCall)]
        calls = [
            {"id": f"{request_id}_tool_call_{i}", "type": "function", "function": function}
            for i, function in enumerate(functions)
        ]
        answer = self._build_completion(
            request_id,
            content,
            model_id,
            finish_reason="tool_calls" if calls else _finish(count, gen_config),
            usage=_usage(prompt, count),
            tool_calls=calls or None,
            reasoning_content=thought or None,
        )
        return JSONResponse(answer)


class Completions(_OfOneModel, CompletionHandler):
    """/v1/completions"""

    def _validate_request(self, body: dict) -> None:
        super()._validate_request(body)
        if not isinstance(body.get("prompt"), str) or not body["prompt"]:
            raise refusal("prompt: give a string that is not empty")

    async def _non_streaming(self, request_id, model, processor, model_id, inputs, gen_config, gen_manager, suffix):
        given = (request_id, model, ServedTokenizer(self.model_manager.tokenizer), model_id, inputs, gen_config)
        items, prompt, count = await self._gathered(*given, gen_manager)
        choice = CompletionChoice(text="".join(items), index=0, finish_reason=_finish(count, gen_config))
        answer = Completion(
            id=request_id,
            created=int(time.time()),
            model=model_id,
            choices=[choice],
            object="text_completion",
            usage=_usage(prompt, count),
        )
        return JSONResponse(answer.model_dump(exclude_none=True))


async def _as_openai_ends(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """The stream, with errors and an end in the form that OpenAI's clients read."""
    async with contextlib.aclosing(events):
        async for text in events:
            before, is_error, wrong = text.partition(STREAM_ERROR)
            if is_error:
                message = json.loads(STREAM_ERROR.removeprefix("data: ") + wrong)["error"]
                yield f"{before}data: {json.dumps({'error': {'message': message, 'type': 'server_error'}})}\n\n"
                return
            yield text
    yield "data: [DONE]\n\n"


def refusal(why: str) -> HTTPException:
    return HTTPException(400, why)


def _message(message) -> dict:
    """A message with a role that templates know. HTTPException (400) for what no template would show to the model."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise refusal(f"a message has the role {role!r}: give one of {', '.join(ROLES)}")
    parts = message.get("content") or []
    parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
    texts = isinstance(parts, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in parts)
    if not texts or not all(isinstance(part.get("text"), str) for part in parts):
        raise refusal("a message has a content that is no text: this model reads nothing else")
    if not parts and not message.get("tool_calls"):
        raise refusal(f"a message of the role {role!r} has no content")
    return message | {"role": "system" if role == "developer" else role}


def _listed(stop) -> list:
    return [] if stop is None else [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else [None]


def _finish(count: int, config: GenerationConfig) -> str:
    return "length" if count >= config.max_new_tokens else "stop"


def _usage(prompt: int, count: int) -> CompletionUsage:
    return CompletionUsage(prompt_tokens=prompt, completion_tokens=count, total_tokens=prompt + count)
