"""The split layers: each computes this rank's share as Transformers' class does, and adds that of the other ranks.

The three sublayers end in a product whose inputs are split, so what a rank holds is a term of a sum: one all-reduce
makes it whole. Lightning attention has a norm over all heads before that product. It seems to need the sum of their
squares first, which would be a second all-reduce. But dividing by the norm and multiplying by a matrix may change
places, so each rank multiplies what it has and the squares go along in the same all-reduce. Of many tokens the squares
are the smallest part, and go first after all: then the rest is sent in the model's dtype, in half the time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.minimax.modeling_minimax import MiniMaxAttention, MiniMaxSparseMoeBlock

from ..classes import change_class
from ..errors import UsageMistake
from ..lightning.layer import LightningAttention
from .ranks import Ranks, agree, join_last, require_no_gradients, sum_over_ranks

MANY = 64  # tokens from which sending half as many bytes saves more than a second all-reduce takes, 11 us on two H200s


class ParallelAttention(MiniMaxAttention):
    """Softmax attention of this rank's heads, and of all of them in its output."""

    def forward(self, *args, **kwargs) -> tuple[Tensor, Tensor | None]:
        out, weights = super().forward(*args, **kwargs)
        return sum_over_ranks(out), weights


class ParallelMixture(MiniMaxSparseMoeBlock):
    """The mixture of experts: the router whole, of each expert a slice of the values inside it."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return sum_over_ranks(super().forward(hidden_states))


class ParallelHead(nn.Linear):
    """The head: each rank the logits of a part of the vocabulary, and then all of them."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return join_last(F.linear(hidden_states, self.weight))


class ParallelLightning(LightningAttention):
    """Lightning attention of this rank's heads, `num_attention_heads` of `all_heads`, from `first_head` on."""

    all_heads: int
    first_head: int
    whole = False

    def _project(self, out: Tensor, gate: Tensor, fast: bool) -> Tensor:
        return self.joined(super()._project(out, gate, fast), out)

    def joined(self, part: Tensor, out: Tensor) -> Tensor:
        """The sublayer's output from `part` (..., hidden), what its norm and out_proj made of `out` (..., heads * n).

        With the mean square m_r of the heads of rank r, `part` is W_r (gate_r w_r out_r) / sqrt(m_r + eps). That is
        undone, the ranks add, and the sum is divided by sqrt(mean of all m_r + eps). Sent in fp32, because m_r is one
        number for a whole token. Dividing by the rank's own m_r at first keeps fp16 within its range.
        """
        require_no_gradients(part)
        if part.numel() > MANY * part.shape[-1]:
            return self._joined_in_two(part, out)
        if part.is_cuda:
            from .kernels import divide, multiply
        else:
            divide, multiply = _divide, _multiply
        ranks, eps = self.all_heads // self.num_attention_heads, self.norm.variance_epsilon
        return divide(sum_over_ranks(multiply(part, out, eps)), part, ranks, eps)

    def _joined_in_two(self, part: Tensor, out: Tensor) -> Tensor:
        """The same for many tokens: the mean squares first, then `part` as it belongs into the sum."""
        ranks, eps = self.all_heads // self.num_attention_heads, self.norm.variance_epsilon
        own = _mean_square(out)
        mean = sum_over_ranks(own.clone()).div_(ranks)
        return sum_over_ranks(part.mul_(((own + eps) / (mean + eps)).sqrt_()))  # multiplied in fp32, kept in its dtype

    def get_slope_rate(self, device=None) -> Tensor:
        """Of this rank's heads."""
        return self.slope_rate.to(device or self.slope_rate.device)


def _mean_square(out: Tensor, into: Tensor | None = None) -> Tensor:
    """(..., 1) in fp32, of the last dimension."""
    norm = torch.linalg.vector_norm(out, dim=-1, keepdim=True, dtype=torch.float32)
    return torch.mul(norm, norm / out.shape[-1], out=into)


def _multiply(part: Tensor, out: Tensor, eps: float) -> Tensor:
    """What is sent: part * sqrt(m + eps), and after all tokens of it the m of each; fp32 (tokens * (hidden + 1),)."""
    size = part.numel()
    sent = part.new_empty(size + size // part.shape[-1], dtype=torch.float32)
    mean = sent[size:].view(*part.shape[:-1], 1)
    _mean_square(out, mean)
    torch.mul(part, (mean + eps).sqrt_(), out=sent[:size].view(part.shape))
    return sent


def _divide(summed: Tensor, part: Tensor, ranks: int, eps: float) -> Tensor:
    """The way back, into the shape and dtype of `part`."""
    whole, mean = summed[: part.numel()].view(part.shape), summed[part.numel() :].view(*part.shape[:-1], 1)
    return (whole / (mean / ranks + eps).sqrt_()).to(part.dtype)


def split(model: nn.Module, ranks: Ranks) -> None:
    """Let the layers of a model compute with those of the other ranks; after `load_part` and `use_lightning`."""
    for layer in model.model.layers:
        attention, experts = layer.self_attn, layer.mlp.experts
        if isinstance(attention, MiniMaxAttention):
            change_class(attention, ParallelAttention)
        else:
            _split_lightning(attention, ranks)
        change_class(layer.mlp, ParallelMixture)
        experts.intermediate_dim = experts.down_proj.shape[-1]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
    if len(model.lm_head.weight) < model.config.vocab_size:
        change_class(model.lm_head, ParallelHead)
    model.save_pretrained = _not_a_whole_model


def _split_lightning(layer: LightningAttention, ranks: Ranks) -> None:
    layer.all_heads = layer.num_attention_heads
    layer.num_attention_heads //= ranks.size
    layer.first_head = ranks.rank * layer.num_attention_heads
    here = slice(layer.first_head, layer.first_head + layer.num_attention_heads)
    layer.slope_rate = layer.slope_rate[here].clone()
    change_class(layer, ParallelLightning)


def is_split(model: nn.Module) -> bool:
    """Whether a model computes together with other ranks."""
    return any(isinstance(module, ParallelMixture) for module in model.modules())


def agree_before_generate(model: nn.Module, inputs: Tensor | None, given: dict) -> None:
    """Let the ranks of a split model compare their prompts and share their random numbers.

    Nothing for another model, or where rank 0 alone calls `generate` and the others follow (leading.py).
    inputs, given: the prompt and the keywords of `generate`. RuntimeError, on all ranks, if the prompts differ.
    """
    from .leading import is_led

    if is_split(model) and not is_led(model):
        prompts = [inputs, given.get("input_ids"), given.get("inputs_embeds")]
        agree(next((prompt for prompt in prompts if prompt is not None), None), model.device)


def _not_a_whole_model(*args, **kwargs):
    raise UsageMistake(
        "a rank holds a part of the weights and cannot save the model: the folder it was read from is it"
    )
