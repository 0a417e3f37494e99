"""A model of random weights as load() would leave it, made where it computes: no folder is read, and nothing is there
twice. The weights of 80 layers are drawn on the GPUs in seconds.

    model = made(native(80), int8=True)                # over all GPUs, layer by layer, as load(path, experts="int8")
    model = made(native(80), int8=True, ranks=ranks)   # this rank's part, as load(path, experts="int8", tp=True)
"""

import torch
from accelerate import dispatch_model
from torch import Tensor, nn
from transformers import MiniMaxConfig, MiniMaxForCausalLM

from benchmarks.decoding.model import GPU, LIGHTNING
from minimax_nb import experts, parallel
from minimax_nb.attention import register
from minimax_nb.bench import building_in
from minimax_nb.bench.measure import TOY
from minimax_nb.cache import repair_cache
from minimax_nb.config import patch_config
from minimax_nb.decode import use_decoding
from minimax_nb.generation import explain_generate
from minimax_nb.lightning.layer import lightning_layers, rebuild_decays, use_lightning
from minimax_nb.loading import use_kernels
from minimax_nb.original import original_config
from minimax_nb.parallel import ALONE, Ranks
from minimax_nb.planner.capacity import Capacity
from minimax_nb.planner.placement import settled

DTYPE = torch.bfloat16 if GPU else torch.float32
STD = 0.02  # of a weight: initializer_range of the published config
UNIFORM_STD = 73.3  # of integers from -127 to 127
ON_ALL_RANKS = ("norm.weight", "mlp.gate.weight", "embed_tokens.weight")
SPLIT = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")


def native(layers: int, toy: bool = False) -> dict:
    """The converted config of MiniMax-Text-01's sizes, or of small ones with a vocabulary for the demo's tokenizer."""
    sizes = TOY | {"vocab_size": 1536, "max_position_embeddings": 1 << 20} if toy else {}
    return patch_config(original_config(num_hidden_layers=layers, **sizes))


def part_of(config: dict, ranks: int) -> dict:
    """The config of what a rank computes."""
    return config | {name: config[name] // ranks for name in SPLIT}


def capacity(config: dict, gpus: int, memory: int, int8: bool, ranks: Ranks = ALONE, **how) -> Capacity:
    """The planner's arithmetic for whole layers on `gpus` GPUs, or for one rank's GPU."""
    dtype = "int8" if int8 else "bf16"
    if ranks.size == 1:
        return Capacity(config, gpus, memory, dtype, **how)
    found = Capacity(config, ranks.size, memory, dtype, tp=True, **how)
    found.layout = found.layout._replace(gpus=found.layout.gpus[:1])
    return found


@torch.inference_mode(False)
def made(config: dict, *, int8: bool, ranks: Ranks = ALONE) -> MiniMaxForCausalLM:
    """UsageMistake where the GPUs cannot hold it."""
    with building_in(DTYPE, "meta"):
        model = MiniMaxForCausalLM(MiniMaxConfig(**part_of(config, ranks.size))).eval()
        model.model.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
    model.config.vocab_size = config["vocab_size"]
    model.requires_grad_(False)
    places = places_of(config, int8, ranks)
    fill(model, places, int8, ranks)
    for layer in lightning_layers(model):
        layer.num_attention_heads = config["num_attention_heads"]  # `split` makes it the rank's
        layer.slope_rate = layer.get_slope_rate(layer.out_proj.weight.device)
    if ranks.size == 1:
        rebuild_decays(model)
    if len(set(places.values())) > 1:  # as Transformers does after reading
        dispatch_model(model, places, skip_keys=model._skip_keys_device_placement)
    as_loaded(model, int8, ranks)
    return model


def as_loaded(model: nn.Module, int8: bool, ranks: Ranks) -> None:
    """What load() does after reading, in its order."""
    explain_generate()
    repair_cache()
    model.set_attn_implementation(register())
    if int8:
        model.set_experts_implementation(experts.register())
    use_lightning(model, LIGHTNING)
    if ranks.size > 1:
        parallel.split(model, ranks)
    if GPU:
        use_kernels(model)
    use_decoding(model, "static")


def places_of(config: dict, int8: bool, ranks: Ranks) -> dict[str, int | str]:
    """The device of each layer and of what is around them, or of "" for everything."""
    if ranks.size > 1:
        return {"": ranks.device() if GPU else "cpu"}
    return settled(config, "bfloat16", "auto", int8_experts=int8) if GPU else {"": "cpu"}


def fill(model: nn.Module, places: dict, int8: bool, ranks: Ranks) -> None:
    """Draw every parameter on its device, and compute the frequencies of the rotation."""
    drawn = {}  # generators: of what is the same on all ranks, and of what is a rank's own
    for device in set(places.values()):
        for name, seed in (("all", 0), ("own", 1 + ranks.rank)):
            drawn[name, device] = torch.Generator(_device(device)).manual_seed(seed)
    for path, module in model.named_modules():
        device = place_of(path, places)
        for name in [name for name, held in module._parameters.items() if held is not None]:
            full = f"{path}.{name}"
            generator = drawn["all" if full.endswith(ON_ALL_RANKS) else "own", device]
            values = values_for(full, module._parameters[name].shape, int8, generator)
            module._parameters[name] = nn.Parameter(values, requires_grad=False)
    with _device(place_of("model.rotary_emb", places)):
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)


def place_of(path: str, places: dict) -> int | str:
    """The device of a module: that of the longest name in `places` that it is within."""
    within = [name for name in places if not name or f"{path}.".startswith(f"{name}.")]
    return places[max(within, key=len)] if within else next(iter(places.values()))


def _device(place: int | str) -> torch.device:
    return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)


def values_for(name: str, shape: torch.Size, int8: bool, generator: torch.Generator) -> Tensor:
    device = generator.device
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=DTYPE, device=device)
    if int8 and ".experts." in name:
        return int8_values(shape, generator)
    values = torch.empty(shape, dtype=DTYPE, device=device)
    for part in values if len(shape) == 3 else [values]:
        part.normal_(std=STD, generator=generator)
    return values


def int8_values(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Experts (e, rows, columns) as experts.int8 holds them: integers, and a scale a row that differs somewhat."""
    from torchao.quantization import Int8Tensor

    count, rows, columns = shape
    device = generator.device
    data = torch.empty(shape, dtype=torch.int8, device=device)
    for expert in data:
        expert.random_(-127, 128, generator=generator)
    scale = torch.empty(count, rows, 1, device=device).uniform_(0.75, 1.25, generator=generator)
    zeros = torch.zeros(count, rows, 1, dtype=torch.int8, device=device)
    return Int8Tensor(data, scale.mul_(STD / UNIFORM_STD), [1, 1, columns], DTYPE, zero_point=zeros)
