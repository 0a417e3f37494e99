"""The experts in int8: quantised one matrix at a time while they are loaded, and held as torchao's Int8Tensor.

    model, tokenizer = load("MiniMax-Text-01-converted", experts="int8")
    model.save_pretrained("MiniMax-Text-01-int8")       # loads again as int8, by load() and by Transformers

A row of a weight, which makes one output, becomes 8-bit integers and a scale in fp32: w is about scale * integer.
That halves the memory of 95 in 100 weights. Router, attention, embedding and head stay as they are.

Transformers quantises with torchao too, a parameter at a time. But it first puts a layer's experts together in bf16,
and torchao takes the whole of them through fp32. Here a matrix of one expert is read, quantised and forgotten before
the next, with the same result. Of 8 layers with 16 experts of 1024 x 2048, on a CPU, the peak of memory was above the
weights by 5.6 times a layer's int8 experts there, and by 0.3 times here (2026-11-28, torchao 0.18.0). At the real
width a layer's are 5.4 GB.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchao.quantization import FqnToConfig, Int8Tensor, Int8WeightOnlyConfig, PerRow
from transformers import TorchAoConfig
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.models.minimax.modeling_minimax import MiniMaxExperts
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

from . import register

NAMES = r"re:.*\.mlp\.experts\.(gate_up_proj|down_proj)"  # of the parameters, as torchao reads it
WHILE_LOADING = "minimax_nb_int8"  # a method of Transformers for as long as it loads


def torchao_config() -> TorchAoConfig:
    """What a folder with int8 experts says in its config.json."""
    return TorchAoConfig(FqnToConfig({NAMES: Int8WeightOnlyConfig(version=2)}))


@register_quantization_config(WHILE_LOADING)
class LoadingConfig(TorchAoConfig):
    """Given to from_pretrained, it lets ExpertsQuantizer load."""

    def __init__(self):
        super().__init__(FqnToConfig({NAMES: Int8WeightOnlyConfig(version=2)}))
        self.quant_method = WHILE_LOADING


@register_quantizer(WHILE_LOADING)
class ExpertsQuantizer(TorchAoHfQuantizer):
    """torchao's quantizer, except for how the matrices of a layer's experts come together."""

    def update_weight_conversions(self, weight_conversions: list, model: nn.Module) -> list:
        return [
            _ExpertsConverter(rule.source_patterns, rule.target_patterns, [_QuantiseEach()])
            if isinstance(rule, WeightConverter) and ".experts." in rule.target_patterns[0]
            else rule
            for rule in weight_conversions
        ]

    def get_quantize_ops(self) -> None:
        """Nothing is left to quantise after the conversion."""

    def param_needs_quantization(self, model: nn.Module, param_name: str, **kwargs) -> bool:
        return param_name.endswith((".experts.gate_up_proj", ".experts.down_proj"))

    def postprocess_model(self, model: nn.Module, **kwargs):
        """From here on the model is one of torchao's, which Transformers knows how to save."""
        super().postprocess_model(model, **kwargs)
        model.hf_quantizer = TorchAoHfQuantizer(torchao_config(), pre_quantized=True)
        model.config.quantization_config = model.hf_quantizer.quantization_config
        model.quantization_method = model.config.quantization_config.quant_method
        model._weight_conversions = None  # so it is saved by Transformers' own rules


class _ExpertsConverter(WeightConverter):
    """Hands on tensors that were not read yet: functions that read one when they are called."""

    def materialize_tensors(self) -> dict[str, list[Callable[[], Tensor]]]:
        found, self.collected_tensors = dict(self.collected_tensors), {}
        return found


class _QuantiseEach(ConversionOps):
    """The experts' matrices, w1 and w3 or w2, into the parameter that holds a layer's."""

    def convert(self, input_dict: dict, target_patterns: list[str], **kwargs) -> dict[str, list[nn.Parameter]]:
        matrices = list(input_dict.values())  # [w1 of each expert, w3 of each], or [w2 of each]
        experts, whole = len(matrices[0]), None
        for expert in range(experts):
            start = 0
            for readers in matrices:
                part, dtype = quantised(readers[expert])
                rows, columns = part.qdata.shape
                if whole is None:
                    whole = _empty(experts, rows * len(matrices), columns, part.qdata.device, dtype)
                whole.qdata[expert, start : start + rows] = part.qdata
                whole.scale[expert, start : start + rows] = part.scale
                start += rows
        return {target_patterns[0]: [nn.Parameter(whole, requires_grad=False)]}


def quantise(model: nn.Module) -> None:
    """The experts of a model that is in memory already, in place, one parameter after the other."""
    for module in [module for module in model.modules() if isinstance(module, MiniMaxExperts)]:
        for name in ("gate_up_proj", "down_proj"):
            setattr(module, name, quantised_parameter(getattr(module, name)))
    model.set_experts_implementation(register())


@torch.inference_mode(False)
@torch.no_grad()
def quantised_parameter(weight: Tensor) -> nn.Parameter:
    """Experts (e, rows, columns) in int8, converted one expert at a time."""
    whole = _empty(*weight.shape, weight.device, weight.dtype)
    for expert in range(len(weight)):
        part, _ = quantised(lambda expert=expert: weight[expert])
        whole.qdata[expert], whole.scale[expert] = part.qdata, part.scale
    return nn.Parameter(whole, requires_grad=False)


def quantised(read: Callable[[], Tensor]) -> tuple[Int8Tensor, torch.dtype]:
    """A matrix (rows, columns) as torchao quantises it in fp32, and its dtype before."""
    matrix = read()
    return Int8Tensor.from_hp(matrix.float(), PerRow()), matrix.dtype


def _empty(experts: int, rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Int8Tensor:
    shape, one = (experts, rows, columns), (experts, rows, 1)
    return Int8Tensor(
        torch.empty(shape, dtype=torch.int8, device=device),
        torch.empty(one, dtype=torch.float32, device=device),
        [1, 1, columns],
        dtype,
        zero_point=torch.zeros(one, dtype=torch.int8, device=device),  # what torchao keeps with symmetric scales
    )
