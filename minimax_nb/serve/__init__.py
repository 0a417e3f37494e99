"""A server that speaks OpenAI's API, around the model that `load` gives: `minimax-nb serve FOLDER`.

    app = make_app(model, tokenizer, name="demo", key="a secret")     # for uvicorn or a test client

Requests, replies and streams are those of `transformers serve`: its handlers are used as they are, and what they get
wrong for this model, or pass over in silence, is mended in one place each. The model is loaded once, by `load`, with
all its repairs and its fast decoding. It answers one request at a time, in the order they came.

The pieces: command.py is the program; app.py the addresses, the key and the errors; handlers.py reads requests;
prompts.py makes ids of messages and tells thinking from reply; turns.py generates, and keeps caches between turns.
With --tp, rank.py is one of the processes that share the work; nothing of the others knows about it.
"""

from ..lazy import names_from

__getattr__, __dir__, __all__ = names_from(__name__, app="make_app")
