"""One call from a converted folder to a model that computes right, and one line that says what was chosen and why.

    model, tokenizer = load("work/demo")
    # fp32 on CPU (2 threads), sdpa, torch lightning attention, fp32 state; cache repaired: length, mask sizes, ...

It reads local folders only, executes no code of theirs, and takes no original folder: `minimax-nb patch SRC DST` makes
the converted one. What can go wrong without an error message is tested on every load: the frequencies of the rotation,
the rows of q_proj and k_proj that arrived in the model, and the cache. It does not quantise.
"""

import importlib.metadata
from pathlib import Path

from .checkpoint.folder import (
    INDEX,
    Header,
    byte_size,
    check_tensors,
    how_to_convert,
    merge,
    qk_names,
    read_config,
    read_headers,
    read_json,
)
from .config import MARKER, verify_frequencies
from .dtypes import short_name
from .errors import CheckpointError, ConfigError

TESTED = "5.24.0"  # of Transformers; a test holds it to pyproject.toml
REBUILT = r"self_attn\.(slope_rate|query_decay|key_decay|diagonal_decay)$"  # in no checkpoint: made from the config
SMALL = 2 * 10**9  # bytes; loading less takes about a second, without a progress bar


def load(path, *, attn_implementation=None, dtype=None, device_map="auto", lightning="auto"):
    """(model, tokenizer) of a converted folder, ready to generate.

    Unless told otherwise: the fastest attention that runs, bf16 on a GPU that has it and fp32 elsewhere, all GPUs or
    else the CPU.
    `lightning` is the backend of `use_lightning`: "auto", "fused", "torch" or "stock". Raises ConfigError for a folder
    that was not converted or a Transformers that computes something else from it, CheckpointError for one whose files
    are missing or contradict each other, RuntimeError for "fused" or "flash_attention_2" where it cannot run.
    """
    from .lightning.layer import choose, described, use_lightning

    on_gpu = _on_gpu(device_map)
    choose(lightning, on_gpu)  # what cannot run is said now, not after minutes of loading
    folder = Path(path).expanduser()
    config = _converted_config(folder)
    tensors = merge(read_headers(folder))
    check_tensors(config, tensors)
    verify_frequencies(config)
    dtype, device_map, where = _placement(dtype, device_map)
    attention, chosen = _attention(attn_implementation, on_gpu, dtype)

    tokenizer = _load_tokenizer(folder)
    model = _load_model(folder, tensors, attn_implementation=attention, dtype=dtype, device_map=device_map)
    _compare_rows(model, config, folder, tensors)
    backend = use_lightning(model, lightning)
    from .cache import repair_cache
    from .generation import explain_generate

    explain_generate()
    repaired = ", ".join(repair_cache()) or "nothing, this version needs none"
    print(f"{where}, {chosen}, {described(backend, on_gpu)}; cache repaired: {repaired}{_version_note()}")
    return model, tokenizer


def _converted_config(folder: Path) -> dict:
    config = read_config(folder)
    marker = config.get(MARKER)
    if not isinstance(marker, dict) or marker.get("qk_rows") != "permuted":
        wrong = "is not converted, stock Transformers would compute it wrong"
        raise ConfigError(f"{folder} {wrong}. {how_to_convert(folder)}")
    return config


def _on_gpu(device_map) -> bool:
    import torch

    return torch.cuda.is_available() and str(device_map) not in ("None", "cpu")


def _placement(dtype, device_map) -> tuple:
    """dtype, device_map, and both in words with the reason."""
    import torch

    gpu = _on_gpu(device_map)
    threads = torch.get_num_threads()
    place = f"CPU ({threads} thread{'s' if threads > 1 else ''})"
    if gpu:
        place = torch.cuda.get_device_name() + (f" x {n}" if (n := torch.cuda.device_count()) > 1 else "")
    elif device_map == "auto":
        device_map = "cpu"
    why = " as asked"
    if dtype is None:
        fits = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype, why = ("bfloat16", "") if fits else ("float32", " (it has no bf16)" if gpu else "")
    return dtype, device_map, f"{short_name(dtype)}{why} on {place}"


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
        return asked or "sdpa", asked or "sdpa"
    return register(), "sdpa by length (PyTorch's fused kernels; FlashAttention-2 was no faster on an H200)"


def _load_tokenizer(folder: Path):
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise CheckpointError(
            f"{folder} has no tokenizer.json: put the original's beside its weights and convert again"
        )
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _load_model(folder: Path, tensors: Header, **settings):
    from transformers import MiniMaxForCausalLM
    from transformers.utils import logging

    kept = MiniMaxForCausalLM._keys_to_ignore_on_load_missing  # Transformers' own list of keys not to report
    MiniMaxForCausalLM._keys_to_ignore_on_load_missing = [REBUILT]
    shown = logging.is_progress_bar_enabled()
    if byte_size(tensors.values()) < SMALL:
        logging.disable_progress_bar()
    try:
        model, report = MiniMaxForCausalLM.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **settings
        )
    finally:
        MiniMaxForCausalLM._keys_to_ignore_on_load_missing = kept
        if shown:
            logging.enable_progress_bar()
    lost = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if lost:
        raise CheckpointError(f"{folder}: Transformers did not load {', '.join(lost[:5])}: convert the original again")
    return model.eval()


def _compare_rows(model, config: dict, folder: Path, tensors: Header) -> None:
    """The first head of each q_proj and k_proj must be that of the file which the index names, not of a later file."""
    from safetensors import safe_open

    index = read_json(folder / INDEX)["weight_map"] if (folder / INDEX).is_file() else {}
    parameters = dict(model.named_parameters())
    for name in qk_names(config):
        loaded, file = parameters[name][: config["head_dim"]], index.get(name, tensors[name].file.name)
        if loaded.device.type == "meta":  # offloaded to disk by accelerate
            continue
        with safe_open(folder / file, "pt") as shard:
            rows = shard.get_slice(name)[: config["head_dim"]].to(loaded.dtype)
        if not rows.equal(loaded.cpu()):
            raise CheckpointError(
                f"{name} in the model is not the one in {file}: a file that sorts after it overrode it. "
                "Convert the original again, into a new folder"
            )


def _version_note() -> str:
    version = importlib.metadata.version("transformers")
    if version == TESTED:
        return ""
    return f"; transformers {version} is not the tested {TESTED}: RoPE frequencies, load order and cache re-tested"
