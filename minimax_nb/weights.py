"""What `load` reads of a converted folder: its tokenizer and its weights, which are compared with the index."""

from __future__ import annotations

from pathlib import Path

from .checkpoint.folder import INDEX, Header, byte_size, qk_names, read_json
from .checkpoint.int8 import TORCHAO, has_int8_experts, part_of
from .checkpoint.tokenizer_check import verify_tokenizer
from .errors import CheckpointError, UsageMistake
from .lazy import installed
from .original import DECAY_BUFFERS

EXPERTS = ("plain", "int8")
SMALL = 2 * 10**9  # bytes; loading less takes about a second, without a progress bar


def kind_of_experts(asked: str | None, config: dict, folder: Path) -> str:
    """What the experts of the loaded model will be, "plain" or "int8". UsageMistake if that cannot be had."""
    if asked not in (None, *EXPERTS):
        raise UsageMistake(f"experts is {asked!r}, not {' or '.join(map(repr, EXPERTS))}")
    int8 = has_int8_experts(config)
    if int8 and asked == "plain":
        raise UsageMistake(f"the experts of {folder} are int8 already: load the folder that it was made from")
    if config.get("quantization_config") and not int8:
        raise UsageMistake(f"{folder} is quantised in another way than int8 experts: load the unquantised folder")
    if (int8 or asked == "int8") and not installed("torchao"):
        raise UsageMistake(TORCHAO)
    return "int8" if int8 or asked == "int8" else "plain"


def load_tokenizer(folder: Path):
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise CheckpointError(
            f"{folder} has no tokenizer.json: put the original's beside its weights and convert again"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    verify_tokenizer(folder, tokenizer)
    return tokenizer


def load_model(folder: Path, tensors: Header, *, experts: str = "plain", **settings):
    """The model. With "int8" its experts are quantised while they are read, unless they are int8 in the folder."""
    from transformers import MiniMaxForCausalLM
    from transformers.utils import logging

    from .experts import register

    if experts == "int8":
        settings["experts_implementation"] = register()  # Transformers' default has no int8
        if not any(map(part_of, tensors)):
            from .experts.int8 import LoadingConfig

            settings["quantization_config"] = LoadingConfig()
    # Of the same name, by which Transformers chooses a loss. What it ignores is not reported as missing.
    ignored = {"_keys_to_ignore_on_load_missing": [rf"self_attn\.({'|'.join(DECAY_BUFFERS)})$"]}
    ignored["__module__"] = MiniMaxForCausalLM.__module__  # where Transformers looks for what the class can do
    unreported = type("MiniMaxForCausalLM", (MiniMaxForCausalLM,), ignored)
    shown = logging.is_progress_bar_enabled()
    if byte_size(tensors.values()) < SMALL:
        logging.disable_progress_bar()
    try:
        model, found = unreported.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **settings
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    model.__class__ = MiniMaxForCausalLM
    lost = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if lost:
        raise CheckpointError(f"{folder}: Transformers did not load {', '.join(lost[:5])}: convert the original again")
    return model.eval()


def compare_rows(model, config: dict, folder: Path, tensors: Header, rank: int = 0) -> None:
    """The first head of each q_proj and k_proj must be that of the file which the index names, not of a later file.

    Of a model split over ranks, the first head of this `rank`.
    """
    from safetensors import safe_open

    index = read_json(folder / INDEX)["weight_map"] if (folder / INDEX).is_file() else {}
    parameters = dict(model.named_parameters())
    for name in qk_names(config):
        loaded, file = parameters[name][: config["head_dim"]], index.get(name, tensors[name].file.name)
        first = rank * len(parameters[name])
        if loaded.device.type == "meta":  # offloaded to disk by accelerate
            continue
        with safe_open(folder / file, "pt") as shard:
            rows = shard.get_slice(name)[first : first + config["head_dim"]].to(loaded.dtype)
        if not rows.equal(loaded.cpu()):
            raise CheckpointError(
                f"{name} in the model is not the one in {file}: a file that sorts after it overrode it. "
                "Convert the original again, into a new folder"
            )
