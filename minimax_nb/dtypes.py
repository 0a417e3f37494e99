"""The dtypes that a model computes in: their names in PyTorch, and the short ones that people write."""

from .errors import UsageMistake

SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def short_name(dtype) -> str:
    """ "bf16" for torch.bfloat16, "bfloat16" or "torch.bfloat16"; another dtype keeps its name."""
    name = str(dtype).removeprefix("torch.")
    return SHORT.get(name, name)


def full_name(text: str) -> str:
    """ "bfloat16" for "bf16" or "bfloat16". UsageMistake for what is neither."""
    name = {short: name for name, short in SHORT.items()}.get(text, text)
    if name not in SHORT:
        raise UsageMistake(f"{text!r} is none of {', '.join(SHORT)}, nor {', '.join(SHORT.values())}")
    return name
