"""Random checkpoints in MiniMax's original format, small and awkward, for the tests to convert."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from minimax_nb import reference
from minimax_nb.demo.model import SIZES
from minimax_nb.original import original_config as config_of

torch.set_num_threads(1)  # on models this small two threads spend their time waiting for each other


SMALL = {
    "head_dim": 16,
    "hidden_size": 48,
    "intermediate_size": 32,
    "max_position_embeddings": 10240,
    "num_attention_heads": 4,
    "rope_theta": 10000000,
    "rotary_dim": 8,
}


def original_config(*, vocab_size: int = 128, **changes) -> dict:
    """An original config.json (minimax_text_01 naming): 8 layers, layer 7 softmax, 4 heads of 16, 2 KV heads."""
    return config_of(**SIZES | SMALL | {"vocab_size": vocab_size} | changes)


def original_weights(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random fp32 tensors under the original names; q and k are scaled up so that softmax attention is peaked."""
    generator = torch.Generator().manual_seed(seed)
    hidden, heads, head_dim = config["hidden_size"], config["num_attention_heads"], config["head_dim"]
    width, kv_width = heads * head_dim, config["num_key_value_heads"] * head_dim

    def matrix(rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * scale / columns**0.5

    def vector(size: int) -> torch.Tensor:
        return 1 + 0.2 * torch.randn(size, generator=generator)

    weights = {
        "model.embed_tokens.weight": matrix(config["vocab_size"], hidden, hidden**0.5),
        "model.norm.weight": vector(hidden),
        "lm_head.weight": matrix(config["vocab_size"], hidden),
    }
    for layer, kind in enumerate(config["attn_type_list"]):
        prefix = f"model.layers.{layer}."
        if kind == 1:
            attention = {
                "q_proj.weight": matrix(width, hidden, 3.0),
                "k_proj.weight": matrix(kv_width, hidden, 3.0),
                "v_proj.weight": matrix(kv_width, hidden),
                "o_proj.weight": matrix(hidden, width),
            }
        else:
            attention = {
                "qkv_proj.weight": matrix(3 * width, hidden),
                "output_gate.weight": matrix(width, hidden),
                "out_proj.weight": matrix(hidden, width),
                "norm.weight": vector(width),
            }
        weights |= {f"{prefix}self_attn.{name}": tensor for name, tensor in attention.items()}
        weights[prefix + "input_layernorm.weight"] = vector(hidden)
        weights[prefix + "post_attention_layernorm.weight"] = vector(hidden)
        weights[prefix + "block_sparse_moe.gate.weight"] = matrix(config["num_local_experts"], hidden)
        for expert in range(config["num_local_experts"]):
            for name, shape in {"w1": (0, 1), "w2": (1, 0), "w3": (0, 1)}.items():
                sizes = (config["intermediate_size"], hidden)
                weights[f"{prefix}block_sparse_moe.experts.{expert}.{name}.weight"] = matrix(*(sizes[i] for i in shape))
    return weights


def write_original(folder: Path, config: dict, weights: dict[str, torch.Tensor], shards: int = 3) -> Path:
    """Save config and weights as upstream does: `shards` files and an index, or one model.safetensors."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names, weight_map = sorted(weights), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(w.numel() * w.element_size() for w in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """||got - want|| / ||want||, in float64."""
    return ((got.double() - want).norm() / want.norm()).item()


def yardstick(config: dict, weights: dict[str, torch.Tensor], rows: list[list[int]]) -> list[torch.Tensor]:
    """The naive float64 logits of each row (no padding)."""
    return [reference.forward(config, weights, row) for row in rows]
