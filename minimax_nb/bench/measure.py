"""What prefill and decoding cost, by length, batch and implementation, against what the device could do at best.

    minimax-nb bench --json bench.json          # on a GPU with 110 GB: one hybrid period at real width, random weights
    minimax-nb bench work/demo                  # a converted folder

One implementation is varied at a time, from a base: the first attention, lightning backend and dtype of each
list. A row is a median with its spread, the peak of memory, the shares of each kind of layer (see clock.py),
and a floor: the bytes that must be read at the measured bandwidth, or the operations at the measured matrix
rate, whichever takes longer, summed over the kinds. Running out of memory is a row too. Results are saved
after every row.

Decoding starts from a cache filled with random numbers, so that long contexts cost no prefill. It measures
speed, not quality, and of the real model only its layers: no tensor parallelism, no serving engine.
"""

import copy
import gc
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import torch
from torch import nn
from transformers import MiniMaxConfig, MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxAttention, MiniMaxCache

from ..attention import NAME, register
from ..cache import CACHE_ARGUMENT, repair_cache
from ..config import patch_config
from ..errors import UsageMistake
from ..experts.held import size
from ..hardware import flash_attention_status
from ..lightning.layer import use_lightning
from ..memory import NOT_ENOUGH
from ..original import original_config
from ..prefill import prefill
from .clock import Clock, experts_used, sdpa_kernels
from .floor import floor, rates
from .plan import Case, Plan, cases
from .results import GB, Results

# A model with the same layers for any machine
TOY = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2}
TOY |= {"head_dim": 32, "rotary_dim": 16}
TOY |= {"num_local_experts": 4, "intermediate_size": 64, "vocab_size": 512, "rope_theta": 10000}
NEEDS = 110 * 10**9  # bytes: 96 GB of weights, and room to compute
STEPS = 4  # decode steps for each repeat of a prefill
ERROR_LENGTH = 1024  # tokens


def random_config(toy: bool, **changes) -> MiniMaxConfig:
    """The native config of MiniMax-Text-01's sizes or a toy's: one hybrid period, unless `changes` say otherwise."""
    sizes = {"num_hidden_layers": 8, "max_position_embeddings": 1 << 20} | (TOY if toy else {})
    return MiniMaxConfig(**patch_config(original_config(**sizes | changes)))


@contextmanager
def building_in(dtype: torch.dtype, device: str) -> Iterator[None]:
    """Within it, modules are made in `dtype` on `device`, and what they compute when they are made is too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def random_model(toy: bool, dtype: str) -> nn.Module:
    """One hybrid period, 7 lightning layers and a softmax layer, with random weights; at real width unless `toy`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not toy and (device == "cpu" or torch.cuda.mem_get_info()[0] < NEEDS):
        raise UsageMistake(
            f"one hybrid period at real width needs a GPU with {NEEDS // GB} GB free: give --toy or a folder"
        )
    with building_in(getattr(torch, dtype), device):
        return MiniMaxForCausalLM(random_config(toy)).eval()


def model_for(folder: Path | None, toy: bool, plan: Plan) -> tuple[nn.Module, str]:
    """The model to measure, in the base dtype, and where it comes from."""
    if folder:
        from ..loading import load

        return load(folder, dtype=plan.dtypes[0], lightning="torch", decoding="plain")[0], folder.name
    toy = toy or not torch.cuda.is_available()
    source = f"one hybrid period, random weights, {'toy size' if toy else 'real width'}"
    return random_model(toy, plan.dtypes[0]), source


def model_facts(model: nn.Module, source: str) -> dict:
    """What was measured, for the results."""
    config, weights = model.config, sum(size(weight) for weight in model.parameters())
    kinds = {"lightning_layers": "linear_attention", "softmax_layers": "full_attention"}
    found = {"source": source, "hidden_size": config.hidden_size, "weights_gb": round(weights / GB, 3)}
    return found | {name: config.layer_types.count(kind) for name, kind in kinds.items()}


@torch.inference_mode()
def bench(
    model: nn.Module,
    plan: Plan,
    results: Results,
    begin: Callable = lambda case: None,
) -> Iterator[dict]:
    """Measure all cases of the plan, one row at a time; `begin` is told each case before it runs."""
    torch.manual_seed(0)
    repair_cache()
    register()
    clock, found = Clock(model), results.found
    found |= {"rates": {}, "errors": [], "rows": []}
    for (dtype, attention, lightning), group in groupby(cases(plan), key=lambda case: case[:3]):
        group = list(group)
        change_dtype(model, dtype)
        if dtype not in found["rates"]:
            found["rates"][dtype] = rates(model.device, model.dtype)
        begin(group[0])
        if why := cannot_run(model, attention, lightning, dtype):
            names = {"dtype": dtype, "attention": attention, "lightning": lightning}
            yield results.add("rows", names | {"status": "not run", "why": why})
            continue
        if lightning == plan.lightning[0]:
            results.add("errors", {"dtype": dtype, "attention": attention} | attention_error(model))
        failed = {}
        for case in group:
            begin(case)
            key = (case.what, case.batch)
            if key in failed:
                row = {"status": "out of memory", "why": f"not tried, for {failed[key]} tokens were too many"}
            else:
                row = measured(model, clock, case, plan.repeats, found["rates"][dtype])
            if row["status"] == "out of memory":
                failed.setdefault(key, case.length)
                gc.collect()  # the frames of the error hold tensors
            yield results.add("rows", case._asdict() | row)
            if row["status"] == "failed" and lost_gpu(clock):  # then no call after it would succeed
                return
    found["complete"] = True
    results.save()


@torch.inference_mode(False)
def change_dtype(model: nn.Module, dtype: str) -> None:
    """Change the dtype in place; the frequencies of the rotation stay in fp32, as Transformers loads them."""
    model.config.dtype = getattr(torch, dtype)  # which Transformers asks before it takes FlashAttention-2
    if model.dtype == getattr(torch, dtype):
        return
    rotary = model.model.rotary_emb
    frequencies = {name: buffer.clone() for name, buffer in rotary.named_buffers()}
    model.to(getattr(torch, dtype))
    for name, values in frequencies.items():
        setattr(rotary, name, values)


def lost_gpu(clock: Clock) -> bool:
    """Whether this process can no longer use its GPUs, as after an illegal memory access."""
    if not clock.on_gpu:
        return False
    try:
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)
            torch.zeros(1, device=f"cuda:{index}").cpu()
    except RuntimeError:
        return True
    return False


def cannot_run(model: nn.Module, attention: str, lightning: str, dtype: str) -> str:
    """Let the model compute this way; if it cannot, a sentence why."""
    if attention == "flash_attention_2" and not (status := flash_attention_status(dtype)).runs:
        return status.advice
    try:
        model.set_attn_implementation(attention)
        use_lightning(model, lightning)
    except (ImportError, RuntimeError, ValueError) as error:
        return str(error).partition("\n")[0]
    return ""


def measured(model: nn.Module, clock: Clock, case: Case, repeats: int, best: dict[str, float]) -> dict:
    """The figures of one row, or how it failed. Times exclude the first call, which compiles and tunes kernels."""
    _tidy()
    try:
        call = prepared(model, case)
        held = _each_gpu(torch.cuda.memory_allocated)
        with experts_used(model) as experts, sdpa_kernels() as kernels:
            finite = bool(call().logits.isfinite().all())
        _each_gpu(torch.cuda.reset_peak_memory_stats)
        row = clock.measure(call, repeats if case.what == "prefill" else STEPS * repeats)
    except Exception as error:
        return _problem(error)
    if clock.on_gpu:
        peak = _each_gpu(torch.cuda.max_memory_allocated)
        row |= {"peak_gb": round(peak / GB, 3), "extra_gb": round((peak - held) / GB, 3)}
    new, past = (case.length, 0) if case.what == "prefill" else (1, case.length)
    size = model.dtype.itemsize if case.lightning == "stock" else 4
    least = floor(model, batch=case.batch, new=new, past=past, experts=experts, state_bytes=size, best=best)
    row |= {"floor_ms": round(sum(least.values()), 4), "floor": least, "experts": sum(experts.values())}
    status = {"status": "ok"} if finite else {"status": "not finite", "why": "the logits hold inf or nan"}
    return row | status | {"kernel": kernel(case.attention, kernels)}


def prepared(model: nn.Module, case: Case) -> Callable:
    """What is timed: a prefill from nothing, or one more token on a cache, which grows by it."""
    size = (case.batch, case.length if case.what == "prefill" else 1)
    ids = torch.randint(model.config.vocab_size, size, device=model.device)
    if case.what == "prefill":
        return lambda: prefill(model, ids, progress=False)
    cache = filled_cache(model, case)
    return lambda: model(ids, **{CACHE_ARGUMENT: cache}, use_cache=True)


def filled_cache(model: nn.Module, case: Case) -> MiniMaxCache:
    """A cache of `length` tokens, random. States are fp32, but for stock's, which has the model's dtype."""
    config, cache = model.config, MiniMaxCache()
    keys = (case.batch, config.num_key_value_heads, case.length, config.head_dim)
    states = (case.batch, config.num_attention_heads, config.head_dim, config.head_dim)
    for index, layer in enumerate(model.model.layers):
        device = layer.input_layernorm.weight.device
        if config.layer_types[index] == "linear_attention":
            dtype = model.dtype if case.lightning == "stock" else torch.float32
            cache.set_linear_cache(index, torch.randn(states, device=device, dtype=dtype))
        else:
            cache.update(*(torch.randn(keys, device=device, dtype=model.dtype) for _ in range(2)), index)
    return cache


def attention_error(model: nn.Module) -> dict:
    """{"percent": ...}: how far the first softmax layer, as it computes now, is from itself in fp32 and eager."""
    layer = next(module for module in model.modules() if isinstance(module, MiniMaxAttention))
    weight, length = layer.q_proj.weight, ERROR_LENGTH
    x = torch.randn(1, length, weight.shape[1], device=weight.device, dtype=weight.dtype)
    mask = torch.full((length, length), torch.finfo(x.dtype).min, device=x.device).triu(1)[None, None]
    try:
        angles = model.model.rotary_emb(x, torch.arange(length, device=x.device)[None])
        exact = copy.deepcopy(layer).float()
        exact.config._attn_implementation = "eager"
        want = exact(x.float(), tuple(part.float() for part in angles), mask)[0].double()
        got, _ = layer(x, angles, mask.to(x.dtype) if layer.config._attn_implementation == "eager" else None)
    except Exception as error:
        return _problem(error)
    return {"percent": round(100 * ((got.double() - want).norm() / want.norm()).item(), 5)}


def kernel(attention: str, picked: set[str]) -> str:
    """What computed the softmax layers, by name."""
    if attention == "flash_attention_2":
        return f"flash-attn {importlib.metadata.version('flash-attn')}"
    return ", ".join(sorted(picked)) or "unknown" if attention in ("sdpa", NAME) else attention


def _problem(error: Exception) -> dict:
    """A failure as the fields of a row."""
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    full = full or any(said in str(error).lower() for said in ("out of memory", *NOT_ENOUGH))
    why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    return {"status": "out of memory" if full else "failed", "why": why}


def _each_gpu(call: Callable[[int], int | None]) -> int:
    """The sum of what `call` says of each GPU; 0 without one."""
    return sum(call(index) or 0 for index in range(torch.cuda.device_count()))


def _tidy() -> None:
    """Give back what the row before left, so that a peak and running out of memory do not depend on it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
