"""The addresses of the server, who may call them, and what an error looks like: OpenAI's form, so its clients say it.

/v1/chat/completions, /v1/completions and /v1/models want the key. /health does not. There is no address that loads,
unloads or downloads a model.
"""

import asyncio
import secrets
import uuid
from http import HTTPStatus

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from jinja2 import TemplateError

from ..errors import MISTAKES
from .handlers import Chats, Completions, TheModel
from .turns import OneModel, Turns

OPEN = "/health"
CLIENT_LEFT = 499  # as nginx logs it; nobody is there to read it


def make_app(model, tokenizer, *, name: str, key: str, max_new_tokens: int = 4096):
    """An ASGI application that serves a model of `load()` under this name, to those who have the key.

    A reply has at most `max_new_tokens` tokens where neither the request nor the folder's generation_config says how
    many. CheckpointError (a ValueError) for a tokenizer without a chat template.
    """
    manager, state = TheModel(name, model, tokenizer, max_new_tokens), OneModel()
    chats, completions = (kind(manager, state) for kind in (Chats, Completions))
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # the pages of docs would load scripts from afar

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: dict) -> Response:
        return await _answered(chats, request, body)

    @app.post("/v1/completions")
    async def complete(request: Request, body: dict) -> Response:
        return await _answered(completions, request, body)

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "local"}]}

    @app.get(OPEN)
    async def health() -> dict:
        return {"status": "ok"}

    @app.exception_handler(404)
    @app.exception_handler(405)
    @app.exception_handler(HTTPException)
    async def of_a_request(request: Request, error) -> JSONResponse:
        return problem(error.status_code, error.detail)

    @app.exception_handler(RequestValidationError)
    async def of_a_body(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(400, "the body is no JSON object")

    return _WithKey(app, key, state.turns)


async def _answered(handler, request: Request, body: dict) -> Response:
    """The handler's answer. Where the client leaves before there is one, the handler is cancelled."""
    answer = asyncio.ensure_future(handler.handle_request(body, f"chatcmpl-{uuid.uuid4().hex}"))
    left = asyncio.ensure_future(_disconnected(request))
    await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    if not answer.done():
        answer.cancel()
        return Response(status_code=CLIENT_LEFT)
    try:
        return answer.result()
    except TemplateError as error:
        return problem(400, f"the model's chat template refuses these messages: {error}")
    except MISTAKES as error:
        return problem(400, str(error))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _WithKey:
    """Lets a request through that has the key in its header `Authorization: Bearer KEY`."""

    def __init__(self, app, key: str, turns: Turns):
        self._app, self._wanted, self.turns = app, f"Bearer {key}".encode(), turns

    async def __call__(self, scope, receive, send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"] != OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._wanted):
                app = problem(401, "no key, or a wrong one: send the header Authorization: Bearer KEY")
        await app(scope, receive, send)


def problem(status: int, message: str) -> JSONResponse:
    """An error in OpenAI's form."""
    kind = "server_error" if status >= 500 else HTTPStatus(status).phrase.lower().replace(" ", "_")
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status_code=status)
