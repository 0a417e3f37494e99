"""Are they the same numbers? The static step and the plain path, each also against the same weights in fp32."""

import copy

import torch
from torch import Tensor, nn
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from minimax_nb.bench.measure import change_dtype
from minimax_nb.decode.dispatch import _state
from minimax_nb.decode.graph import Eager

from .model import DEVICE, go, model_of, next_logits


@torch.inference_mode()
def equal(toy: bool) -> list[dict]:
    """One step from each of the caches that the plain path leaves, both ways and in fp32; and the experts chosen.

    A token that is a near tie for a router goes to another expert after any rounding, and there its logits are others.
    """
    model = model_of(toy, [0, 1])
    length, count = (1000, 64) if not toy else (40, 12)
    ids = torch.randint(model.config.vocab_size, (1, length + count), device=DEVICE)
    fed, cache, befores = ids[:, length:].split(1, 1), MiniMaxCache(), []
    go(model, "today")
    next_logits(model, ids[:, :length], cache)
    for token in fed:
        befores.append(copy.deepcopy(cache))
        next_logits(model, token, cache)
    found = {}
    for way in ("today", "static", "fp32"):
        if way == "fp32":
            go(model, "today")
            change_dtype(model, "float32")
        else:
            go(model, way)
        found[way] = [one_step(model, way, token, before) for token, before in zip(fed, befores, strict=True)]
    logits = {way: torch.cat([step[0] for step in steps]) for way, steps in found.items()}
    experts = {way: torch.stack([step[1] for step in steps]) for way, steps in found.items()}
    rows = []
    for got, want in (("static", "today"), ("static", "fp32"), ("today", "fp32")):
        off, same = error(logits[got], logits[want]), (experts[got] == experts[want]).flatten(1).all(1)
        row = {"got": got, "want": want, "tokens": count, "median": off.median().item()}
        row |= {"same_experts": same.sum().item(), "most_of_those": off[same].max().item(), "most": off.max().item()}
        row["same_token"] = (logits[got].argmax(-1) == logits[want].argmax(-1)).sum().item()
        rows.append({name: round(x, 5) if isinstance(x, float) else x for name, x in row.items()})
        print(rows[-1], flush=True)
    return rows


def one_step(model: nn.Module, way: str, token: Tensor, before: MiniMaxCache) -> tuple[Tensor, Tensor]:
    """Logits (1, vocabulary), and the experts of each layer in order of their numbers, (layers, experts a token)."""
    logits, seen = next_logits(model, token, copied(before, model.dtype)), []
    if way == "static":
        decoder, cache = _state(model).decoder, copied(before, model.dtype)
        ops, route, play = decoder.parts[0].ops, decoder.parts[0].ops.route, decoder.play
        ops.route = lambda *args: seen.append((found := route(*args))[0]) or found
        decoder.play = Eager(decoder.parts, decoder.buffers)
        next_logits(model, token, cache)
        ops.route, decoder.play = route, play
    else:
        gates = [layer.mlp.gate for layer in model.model.layers]
        hooks = [gate.register_forward_hook(lambda _, __, out: seen.append(out[2])) for gate in gates]
        next_logits(model, token, copied(before, model.dtype))
        for hook in hooks:
            hook.remove()
    return logits, torch.cat(seen).sort(-1).values


def copied(cache: MiniMaxCache, dtype: torch.dtype) -> MiniMaxCache:
    """A copy, with the keys and values in `dtype`."""
    cache = copy.deepcopy(cache)
    for layer in cache.layers:
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys.to(dtype), layer.values.to(dtype)
    return cache


def error(got: Tensor, want: Tensor) -> Tensor:
    """Relative, of each row."""
    return (got.double() - want.double()).norm(dim=-1) / want.double().norm(dim=-1)
