"""What a parameter of experts holds, whichever class it is of; for kernels, which read memory.

Neither torchao nor Triton is needed to ask.
"""

from torch import Tensor, nn

PLAIN = (Tensor, nn.Parameter)


def is_int8(weight: Tensor) -> bool:
    """Whether the weight is torchao's Int8Tensor."""
    return type(weight).__name__ == "Int8Tensor"


def has_int8(model: nn.Module) -> bool:
    """Whether any parameter of the model is an Int8Tensor."""
    return any(is_int8(weight) for weight in model.parameters())


def values_and_scales(weight: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """Of experts (e, rows, columns): the numbers as they lie in memory, and fp32 scales (e, rows) if they are int8.

    None for a class of its own that is not known here: distributed, or quantised in another way than weight-only with
    a scale a row.
    """
    if type(weight) in PLAIN:
        return weight, None
    if not is_int8(weight) or list(weight.block_size) != [1, 1, weight.shape[-1]]:
        return None
    if weight.act_quant_kwargs is not None or weight.act_pre_scale is not None:
        return None
    return weight.qdata, weight.scale.flatten(1)


def size(weight: Tensor) -> int:
    """Bytes of its numbers, scales included; an Int8Tensor by itself counts as if it were not quantised."""
    if not is_int8(weight):
        return weight.nbytes
    return weight.qdata.nbytes + weight.scale.nbytes


def address(weight: Tensor) -> int:
    """Where its numbers begin; an Int8Tensor by itself says 0."""
    return weight.qdata.data_ptr() if is_int8(weight) else weight.data_ptr()
