"""The first layers of a converted folder, for a comparison of the two that compute them.

got = first_layers(folder, 8)(ids).logits                               # stock Transformers
want = reference.forward(original_config, Weights(tensors, unpermute_for=config), ids, layers=8)
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from .checkpoint.folder import Header, qk_names
from .checkpoint.int8 import has_int8_experts, one_expert
from .checkpoint.shards import unpermute
from .config import MARKER
from .terminal import quiet_transformers


def first_layers(dst: Path, layers: int):
    """Stock's model of the first `layers` in float32, with the decay of the whole depth."""
    import torch
    from transformers import MiniMaxConfig, MiniMaxForCausalLM
    from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

    config = MiniMaxConfig.from_pretrained(dst)
    depth, config.num_hidden_layers = config.num_hidden_layers, layers
    config.layer_types = config.layer_types[:layers]
    with quiet_transformers():
        how = {"experts_implementation": "eager"} if has_int8_experts(config.to_dict()) else {}
        model = MiniMaxForCausalLM.from_pretrained(dst, config=config, dtype=torch.float32, **how).eval()
    for module in model.modules():
        if isinstance(module, MiniMaxLightningAttention):
            module.num_hidden_layers = depth
            module.slope_rate = module.get_slope_rate()
            module.query_decay, module.key_decay, module.diagonal_decay = module.decay_factors(module.slope_rate)
    return model


class Weights(Mapping):
    """Tensors by original name, each read when asked for; `unpermute_for` is the config of converted rows.

    int8 experts are what scale times integer gives.
    """

    def __init__(self, tensors: Header, *, unpermute_for: dict | None = None):
        self.tensors, self.config = tensors, unpermute_for
        self.permuted = set(qk_names(unpermute_for)) if unpermute_for else set()

    def __getitem__(self, name: str):
        from safetensors import safe_open

        if name == "lm_head.weight" and name not in self.tensors:
            name = "model.embed_tokens.weight"  # tied
        if name not in self.tensors:
            return one_expert(self.tensors, name)
        with safe_open(self.tensors[name].file, "pt") as file:
            tensor = file.get_tensor(name)
        if name in self.permuted:
            return unpermute(tensor, self.config["head_dim"], self.config[MARKER]["rotary_dim"])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)
