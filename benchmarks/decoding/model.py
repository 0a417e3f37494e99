"""The model of these measurements, computing as `load()` leaves it or as it was before the static step."""

import torch
from torch import Tensor, nn
from transformers import MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from minimax_nb.attention import register
from minimax_nb.bench import building_in, random_config
from minimax_nb.cache import CACHE_ARGUMENT, repair_cache
from minimax_nb.decode import use_decoding
from minimax_nb.lightning import use_lightning

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
LIGHTNING = "fused" if GPU else "auto"  # where the kernels fail on a GPU, a benchmark should say so and not go round it
WAYS = ("today", "static")


@torch.inference_mode(False)
def model_of(toy: bool, kinds: list[int], **sizes) -> nn.Module:
    """Layers of these kinds, 1 softmax and 0 lightning, as load() would leave them; random weights."""
    torch.manual_seed(0)
    config = random_config(toy, num_hidden_layers=len(kinds), attn_type_list=kinds, **sizes)
    with building_in(torch.bfloat16 if GPU else torch.float32, DEVICE):
        model = MiniMaxForCausalLM(config).eval()
    if GPU:
        model.set_attn_implementation(register())
    use_lightning(model, LIGHTNING)
    repair_cache()
    return model


def go(model: nn.Module, way: str) -> None:
    """Compute as it was before this step, or as load() leaves a model now."""
    use_decoding(model, "plain" if way == "today" else "static")
    if not GPU:
        return
    try:
        from minimax_nb import experts, norms

        experts.register()
    except ImportError:
        return
    model.set_experts_implementation("grouped_mm" if way == "today" else experts.NAME)
    norms.use_fused_norms(model, "stock" if way == "today" else "auto")


def next_logits(model: nn.Module, ids: Tensor, cache: MiniMaxCache) -> Tensor:
    return model(ids, **{CACHE_ARGUMENT: cache}, use_cache=True, logits_to_keep=1).logits[:, -1]
