"""What `load` reads of a converted folder: its tokenizer and its weights, which are compared with the index."""

from __future__ import annotations

from pathlib import Path

from .checkpoint.folder import INDEX, Header, byte_size, qk_names, read_json
from .checkpoint.tokenizer_check import verify_tokenizer
from .errors import CheckpointError
from .original import DECAY_BUFFERS

SMALL = 2 * 10**9  # bytes; loading less takes about a second, without a progress bar


def load_tokenizer(folder: Path):
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise CheckpointError(
            f"{folder} has no tokenizer.json: put the original's beside its weights and convert again"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    verify_tokenizer(folder, tokenizer)
    return tokenizer


def load_model(folder: Path, tensors: Header, **settings):
    from transformers import MiniMaxForCausalLM
    from transformers.utils import logging

    # Of the same name, by which Transformers chooses a loss. What it ignores is not reported as missing.
    ignored = {"_keys_to_ignore_on_load_missing": [rf"self_attn\.({'|'.join(DECAY_BUFFERS)})$"]}
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
