"""One call from a converted folder to a model that computes right, and one line that says what was chosen and why.

    model, tokenizer = load("work/demo")
    # fp32 on CPU (2 threads), sdpa, torch lightning attention, fp32 state, static decoding; cache repaired: length, ...
    report(model).lightning                  # "torch": the same as data

It reads local folders only, executes no code of theirs, and takes no original folder: `minimax-nb patch SRC DST` makes
the converted one. What can go wrong without an error message is tested on every load: the frequencies of the rotation,
the rows of q_proj and k_proj that arrived in the model, and the cache; and with another Transformers than the one that
the kit is tested with, a small model against the definition. With `experts="int8"` it quantises the experts while it
reads them (minimax_nb.experts.int8).
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .checkpoint.folder import byte_size, check_tensors, merge, read_config, read_headers, require_converted
from .config import verify_frequencies
from .dtypes import short_name
from .keys import refuse_code_keys
from .language import tr
from .weights import compare_rows, kind_of_experts, load_model, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import MiniMaxForCausalLM, PreTrainedTokenizerBase

TESTED = "5.24.0"  # of Transformers; a test holds it to pyproject.toml


class Report(NamedTuple):
    """What `load` chose for a model, what it repaired and what it tested in this process."""

    dtype: str  # "bfloat16"
    attention: str  # "sdpa_by_length"
    lightning: str  # "torch"
    decoding: str  # "static"
    experts: str  # "plain", or "int8"
    repaired: tuple[str, ...]  # of the cache
    tested: tuple[str, ...]  # by `selftest`, where Transformers is not the pinned version
    line: str  # all of it in words

    def __reduce__(self):
        """A model that is read in another process finds the cache repaired, attention and experts registered."""
        return _in_another_process, tuple(self)


def load(
    path: str | Path,
    *,
    attn_implementation: str | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | int | dict | torch.device | None = "auto",
    lightning: str = "auto",
    decoding: str | None = None,
    experts: str | None = None,
    offload: bool | str | Path = False,
    tp: bool = False,
    quiet: bool = False,
) -> tuple[MiniMaxForCausalLM, PreTrainedTokenizerBase]:
    """(model, tokenizer) of a converted folder, ready to generate.

    Unless told otherwise: the fastest attention that runs, bf16 on a GPU that has it and fp32 elsewhere, all GPUs or
    else the CPU. One line says what was chosen, unless `quiet`; `report(model)` has it as data.
    `lightning` is the backend of `use_lightning`: "auto", "fused", "torch" or "stock". `decoding` is "static", a step
    of its own for each new token (minimax_nb.decode), or "plain", the model's own forward pass; None takes the step
    where it can be had, and otherwise says why not. `experts` is "int8", in half the memory of bf16, or "plain"; None
    takes them as the folder has them.
    `offload` allows that what finds no room on the GPUs goes to the CPU's memory, and if it is a folder, that the rest
    is written there: then every token waits for it. A `device_map` that names "cpu" or "disk" for a module itself needs
    no leave. `tp` reads a part of each layer for this process alone, which computes together with the others that
    torchrun started (minimax_nb.parallel); `device_map` stays "auto" then. With `experts="int8"` each
    quantises its own part; a folder that is int8 already is refused.
    Raises ConfigError for a folder that was not converted or a Transformers that computes something else from it,
    CheckpointError for one whose files are missing or contradict each other, RuntimeError for "fused" or
    "flash_attention_2" where it cannot run, and for a Transformers that fails the self-test; UsageMistake, with what to
    do, where the memory does not suffice, and for `tp` without the other processes or with too many of them.
    """
    from . import decode, parallel
    from .cache import repair_cache
    from .generation import explain_generate
    from .lightning.backends import Sizes, choose, described, why_not_fused
    from .lightning.layer import rebuild_decays, use_lightning
    from .memory import enough_memory
    from .planner.placement import named, settled

    on_gpu = _on_gpu(device_map)
    decode.require(decoding)
    choose(lightning, on_gpu)  # what cannot run is said now, not after minutes of loading
    folder = Path(path).expanduser()
    config = _converted_config(folder)
    experts = kind_of_experts(experts, config, folder)
    ranks = parallel.begin(config, device_map, lightning) if tp else parallel.ALONE
    tensors = merge(read_headers(folder))
    check_tensors(config, tensors)
    verify_frequencies(config)
    dtype, device_map, where = _placement(dtype, device_map)
    dtype_name = str(dtype).removeprefix("torch.")
    if ranks.size == 1:
        device_map = settled(config, dtype_name, device_map, offload=offload, int8_experts=experts == "int8")
    elif on_gpu:
        device_map = ranks.device()
    where = tr("{dtype} on {device}", dtype=where, device=named(device_map, config["num_hidden_layers"]))
    attention, chosen = _attention(attn_implementation, on_gpu, dtype)
    sizes = Sizes(config["num_attention_heads"] // ranks.size, config["head_dim"], dtype_name)
    backend = choose(lightning, on_gpu, sizes)  # runs the fused kernels once
    fault = why_not_fused(on_gpu, sizes) if on_gpu and lightning == "auto" else ""
    explain_generate()
    repaired = tuple(repair_cache())
    tested, note = self_test(attention, backend, "cuda" if on_gpu else "cpu", dtype_name)

    tokenizer = load_tokenizer(folder)
    settings = {"attn_implementation": attention, "dtype": dtype, "experts": experts}
    if not on_gpu and experts == "plain":  # Transformers' own choice depends on what this process has loaded before
        settings["experts_implementation"] = "eager"
    with enough_memory(f"the weights of {folder}, {byte_size(tensors.values()) / 1e9:.2f} GB on disk"):
        if ranks.size > 1:
            model = parallel.load_part(folder, tensors, config, ranks, **settings)
        else:
            settings |= {"offload_folder": offload} if offload and offload is not True else {}
            model = load_model(folder, tensors, device_map=device_map, **settings)
    compare_rows(model, config, folder, tensors, ranks.rank)
    rebuild_decays(model)
    use_lightning(model, backend)
    if ranks.size > 1:
        parallel.split(model, ranks)
    decoded, fast = use_fast_paths(model, on_gpu, decoding)
    cache = tr(", ").join(map(tr, repaired)) or tr("nothing, this version needs none")
    how = f"{described(backend, fault)}{tr(', int8 experts') if experts == 'int8' else ''}{fast}"
    chosen = tr(", ").join((where, chosen, how))
    line = f"{ranks.described()}{chosen}{tr('; cache repaired: {repairs}', repairs=cache)}{note}"
    model.minimax_nb = Report(dtype_name, attention, backend, decoded, experts, repaired, tested, line)
    if not quiet and ranks.rank == 0:
        print(line)
    return model, tokenizer


def report(model: MiniMaxForCausalLM) -> Report:
    """What `load` chose for this model. ValueError for a model that it did not load."""
    found = getattr(model, "minimax_nb", None)
    if not isinstance(found, Report):
        raise ValueError(f"this {type(model).__name__} was not loaded by minimax_nb.loading.load")
    return found


def _in_another_process(*fields) -> Report:
    from . import experts
    from .attention import NAME, register
    from .cache import repair_cache
    from .generation import explain_generate

    found = Report(*fields)
    explain_generate()
    repair_cache()
    experts.register()
    if found.attention == NAME:
        register()
    return found


def use_fast_paths(model: MiniMaxForCausalLM, on_gpu: bool, decoding: str | None = None) -> tuple[str, str]:
    """Let a model take our kernels, and decode statically where it may and can: how it decodes, and all in words."""
    from . import decode

    kernels = tr(", experts and norms by our kernels") if on_gpu and use_kernels(model) else ""
    unfit = decode.problem(model) if decoding != "plain" else ""
    decoded = decode.use_decoding(model, "plain" if unfit or decoding == "plain" else "static")
    return decoded, f"{kernels}{tr(', ')}{decode.described(decoded, on_gpu, unfit)}"


def use_kernels(model: MiniMaxForCausalLM) -> bool:
    """Let the experts and the norms be computed by kernels of ours, where there is Triton; return whether."""
    from . import experts
    from .norms import use_fused_norms

    if use_fused_norms(model) != "fused":
        return False
    model.set_experts_implementation(experts.register())
    return True


def _converted_config(folder: Path) -> dict:
    config = read_config(folder)
    require_converted(folder, config)
    refuse_code_keys(config)
    return config


def _on_gpu(device_map) -> bool:
    """Whether any part of the model goes to an NVIDIA GPU."""
    import torch

    if device_map is None or not torch.cuda.is_available():
        return False
    places = device_map.values() if isinstance(device_map, dict) else [device_map]
    return any(str(place) not in ("cpu", "disk", "meta", "mps") for place in places)


def _placement(dtype, device_map) -> tuple:
    """dtype, device_map, and the dtype in words with the reason."""
    import torch

    gpu = _on_gpu(device_map)
    if device_map == "auto" and not gpu:
        device_map = "cpu"
    why = tr(" as asked")
    if dtype is None:
        fits = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype, why = ("bfloat16", "") if fits else ("float32", tr(" (it has no bf16)") if gpu else "")
    return dtype, device_map, f"{short_name(dtype)}{why}"


def _attention(asked: str | None, on_gpu: bool, dtype) -> tuple[str, str]:
    """The attention implementation, and it in words with the reason. RuntimeError if FlashAttention-2 cannot run.

    PyTorch's own attention comes first everywhere: it has FlashAttention-2 built in
    (https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html). On an H200
    none was faster (notebooks/results/flash_attention_h200.json; a test holds the words below to it).
    """
    from .attention import register
    from .hardware import flash_attention_status

    if asked == "flash_attention_2":
        if not on_gpu:
            raise RuntimeError("FlashAttention-2 cannot run on a CPU: 'sdpa' runs everywhere")
        if not (status := flash_attention_status(dtype)).runs:
            raise RuntimeError(status.advice)
    if asked or not on_gpu:
        return asked or register(), asked or "sdpa"
    return register(), tr("sdpa by length (PyTorch's fused kernels; FlashAttention-2 was no faster on an H200)")


def self_test(attention: str, lightning: str, device: str, dtype: str) -> tuple[tuple[str, ...], str]:
    """What was compared with the definition, and it in words; nothing for the version that the kit is tested with."""
    version = importlib.metadata.version("transformers")
    if version == TESTED:
        return (), ""
    from .selftest import run

    try:
        result = run(attention, lightning, device, dtype)
    except RuntimeError as wrong:
        raise RuntimeError(
            f"Transformers {version} computes this model wrong: on a small one with {attention} and {lightning} "
            f"lightning attention {wrong}. Install the tested version: pip install transformers=={TESTED}"
        ) from wrong
    said = {"version": version, "tested": TESTED, "compared": tr(", ").join(result.compared)}
    note = tr(
        "; transformers {version} is not the tested {tested}: {compared} within {error} of the definition on a small "
        "model",
        **said,
        error=f"{result.error:.0e}",
    )
    return result.compared, note
