"""Which calls of a model are steps, and how the model comes to take them.

A model that decodes statically is of a subclass with one more `__call__`. It looks at each call, takes it as a step if
it is one, and hands every other to the model's own forward pass, hooks and all: a prompt, training, labels, outputs
of single layers, a module with a hook that wants to be called. The subclass has its parent's name, which Transformers
writes into a saved config. Nothing of this is kept on the model, so it can be pickled and copied.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.models.minimax import modeling_minimax as stock

from ..cache import CACHE_ARGUMENT
from ..language import mark, tr
from ..lazy import installed
from ..lightning.boundaries import hand_down
from ..lightning.layer import LightningAttention
from ..parallel.layers import ParallelAttention, ParallelHead, ParallelLightning, ParallelMixture, is_split
from ..parallel.ranks import is_first
from .decoder import Changed, Decoder, Refused, Unfit

MODES = ("static", "plain")
FLAGS = ("output_attentions", "output_hidden_states", "output_router_logits")
ATTENTIONS = (stock.MiniMaxAttention, stock.MiniMaxLightningAttention, LightningAttention)
ATTENTIONS += (ParallelAttention, ParallelLightning)
MIXTURES = (stock.MiniMaxSparseMoeBlock, ParallelMixture)
KNOWN = {"input_ids", "attention_mask", "position_ids", "cache", "past_key_values", "use_cache", "logits_to_keep"}
KNOWN |= {"return_dict", "tokenizer"}  # `generate` hands on the tokenizer of stop strings, which no layer reads
CAPTURING = "transformers.utils.output_capturing"  # its hooks act on calls that ask for outputs of single layers
COMPILING = mark("its kernels are compiled at the first token, some seconds once for this machine")


class _Static:
    """What is known of one model: its decoder, the hooks that send a call to the plain path, what was said."""

    def __init__(self, model: nn.Module):
        self.why = problem(model)
        self.decoder = None
        self.hooks = [hooks for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self.plain, self.said = 0, set()
        self.grown = lambda: None  # the mask of the step before and a column of ones, as `generate` makes it
        self.refused = weakref.WeakSet()  # caches

    def hooked(self) -> bool:
        """Whether a module has a hook that wants to be called; Transformers' own stay on for good, and wait."""
        found = (hook for hooks in self.hooks if hooks for hook in hooks.values())
        return any(hook is not hand_down and getattr(hook, "__module__", "") != CAPTURING for hook in found)

    def say(self, why: str) -> None:
        if why not in self.said and is_first():
            self.said.add(why)
            print(f"decoding plainly: {why}")


_known: "weakref.WeakKeyDictionary[nn.Module, _Static]" = weakref.WeakKeyDictionary()


class MiniMaxForCausalLM(stock.MiniMaxForCausalLM):
    """MiniMaxForCausalLM of Transformers that takes single tokens by the static step."""

    def __call__(self, *args, **kwargs):
        logits = None if torch.compiler.is_compiling() else _stepped(self, args, kwargs)
        if logits is None:
            if (known := _known.get(self)) and known.decoder and (cache := _cache(kwargs)) is not None:
                known.decoder.let_go(cache)
            return super().__call__(*args, **kwargs)
        return MoeCausalLMOutputWithPast(logits=logits[:, None], **{CACHE_ARGUMENT: _cache(kwargs)})

    def _update_model_kwargs_for_generation(self, *args, **kwargs):
        kept = super()._update_model_kwargs_for_generation(*args, **kwargs)
        if isinstance(mask := kept.get("attention_mask"), Tensor):
            _state(self).grown = weakref.ref(mask)
        return kept

    def _beam_search(self, *args, **kwargs):
        if not (state := _state(self)).plain:
            state.say("beams exchange the rows of a cache after every token")
        with plainly(self):
            return super()._beam_search(*args, **kwargs)


def use_decoding(model: nn.Module, mode: str = "static") -> str:
    """Let a loaded native model decode by the "static" step or by its own forward pass, "plain"; return which.

    "static" for a model that cannot be stepped leaves it plain, says why in a line, and returns "plain". ValueError for
    another mode, or a model that is not MiniMaxForCausalLM.
    """
    require(mode)
    if type(model) not in (stock.MiniMaxForCausalLM, MiniMaxForCausalLM):
        raise ValueError(f"{type(model).__name__} cannot be stepped: give the MiniMaxForCausalLM that load() returns")
    _known.pop(model, None)
    if mode == "static" and (why := problem(model)):
        print(f"decoding plainly: {why}")
        mode = "plain"
    model.__class__ = MiniMaxForCausalLM if mode == "static" else stock.MiniMaxForCausalLM
    return mode


def require(mode: str | None) -> None:
    """ValueError for what is neither a mode nor None."""
    if mode not in (None, *MODES):
        raise ValueError(f"decoding is {mode!r}, not {' or '.join(map(repr, MODES))}")


def forget() -> None:
    """Drop what is known of all models, the graphs too: the next step makes its own anew."""
    _known.clear()


def described(mode: str, on_gpu: bool, why: str = "") -> str:
    """The mode in words, for the line that load() prints."""
    why = why or (COMPILING if mode == "static" and on_gpu else "")
    said = tr("static decoding") if mode == "static" else tr("plain decoding")
    return said + (tr(" ({why})", why=tr(why)) if why else "")


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Within it, the model takes no steps: for comparing, or where a cache is changed by hand."""
    state = _state(model)
    state.plain += 1
    try:
        yield
    finally:
        state.plain -= 1


def is_kept_plain(model: nn.Module) -> bool:
    """Whether no call may be a step now: within `plainly`, or because a hook wants to be called."""
    if not isinstance(model, MiniMaxForCausalLM):
        return True
    state = _state(model)
    return state.plain > 0 or state.hooked()


def problem(model: nn.Module) -> str:
    """Why this model cannot be stepped, or an empty string."""
    config, devices = model.config, {weight.device.type for weight in model.parameters()}
    if devices not in ({"cpu"}, {"cuda"}):
        return f"weights are on {' and '.join(sorted(devices))}, and the step knows a CPU or CUDA GPUs"
    if devices == {"cuda"} and not installed("triton"):
        return mark("Triton is missing, which the step's kernels are written in")
    if config.hidden_act != "silu" or getattr(config, "sliding_window", None) is not None:
        return mark("the step knows silu and no sliding window")
    if config.rope_parameters.get("rope_type") in ("dynamic", "longrope"):
        return mark("the rotation depends on the length")
    kinds = [_kind(layer) for layer in model.model.layers]
    if None in kinds or type(model.lm_head) not in (nn.Linear, ParallelHead):
        return mark("a layer has modules that are not Transformers' own, such as an adapter")
    if not any(issubclass(kind, stock.MiniMaxAttention) for kind in kinds):
        return mark("without a softmax layer the cache does not know its length")
    if stock.MiniMaxLightningAttention in kinds:
        return mark("lightning attention is stock's")
    return ""


def _kind(layer: nn.Module) -> type | None:
    """The class of a layer's attention, None if anything in it is not as Transformers made it."""
    kind = type(layer.self_attn)
    own = kind in ATTENTIONS and type(layer.mlp) in MIXTURES and type(layer.mlp.experts) is stock.MiniMaxExperts
    linear = [m for m in layer.self_attn.children() if not isinstance(m, stock.MiniMaxRMSNorm | nn.SiLU)]
    own = own and all(type(m) is nn.Linear or type(m).__name__ == "SiLUActivation" for m in linear)
    return kind if own else None


def _state(model: nn.Module) -> _Static:
    if model not in _known:
        _known[model] = _Static(model)
    return _known[model]


def _cache(kwargs: dict):
    return kwargs.get("cache") if kwargs.get("cache") is not None else kwargs.get("past_key_values")


def _stepped(model: nn.Module, args: tuple, kwargs: dict) -> Tensor | None:
    """Logits (b, vocabulary) if the call is a step and it could be done."""
    ids = args[0] if len(args) == 1 else None if args else kwargs.get("input_ids")
    cache = _cache(kwargs)
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.shape[1] != 1 or not isinstance(cache, stock.MiniMaxCache):
        return None
    length = cache.get_seq_length()  # 0 for a cache that does not know its length: what that does is stock's affair
    if not _is_step(model, ids, length, kwargs):
        return None
    state = _state(model)
    if state.plain or cache in state.refused or state.hooked():
        return None
    if state.why:
        state.say(state.why)
        return None
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    known = mask is not None and mask is state.grown()
    if not known and not _goes_on(mask, getattr(cache, "fed", None)):
        return None
    try:
        state.decoder = state.decoder or Decoder(model)
        positions = None if positions is None else positions[:, 0]
        return state.decoder.step(cache, length, ids[:, 0], positions).to(ids.device)
    except Changed:
        _known.pop(model)
        return _stepped(model, args, kwargs)
    except (Unfit, torch.OutOfMemoryError) as error:
        if is_split(model):  # the other ranks are in the middle of this step, and a plain pass cannot join them
            raise
        if isinstance(error, Unfit):
            state.why = str(error)
            state.say(state.why)
        else:
            state.decoder.drop()
            state.say("too little memory for static keys and values of this length")
    except Refused as error:
        state.say(str(error))
    state.refused.add(cache)
    return None


def _goes_on(mask: Tensor | None, fed: Tensor | None) -> bool:
    """Whether a mask says of earlier tokens what they were fed as, and that the new ones are no pads.

    Otherwise the model's own forward pass does what is right, or says what is wrong. To know, a GPU is waited for; but
    not for the masks that `generate` makes.
    """
    if mask is None:
        return fed is None
    past = mask[:, :-1].bool()
    return bool(mask[:, -1].all() & (past.all() if fed is None else (past == fed.to(past.device)).all()))


def _is_step(model: nn.Module, ids: Tensor, length: int, kwargs: dict) -> bool:
    """Whether the call asks for what a step gives: logits of one new token on a cache of some."""
    config = model.config
    if length == 0:
        return False
    if torch.is_grad_enabled() or model.training or torch.is_autocast_enabled(ids.device.type):
        return False
    if any(value is not None and value is not False for name, value in kwargs.items() if name not in KNOWN):
        return False
    if any(getattr(config, name, False) for name in FLAGS):
        return False
    if (kwargs.get("use_cache") is None and not config.use_cache) or kwargs.get("use_cache") is False:
        return False
    if kwargs.get("return_dict") is False or kwargs.get("logits_to_keep") not in (None, 0, 1):
        return False
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    if mask is not None and not (isinstance(mask, Tensor) and mask.shape == (len(ids), length + 1)):
        return False
    if positions is not None and not (positions.dim() == 2 and positions.shape[1] == 1):
        return False
    return True
