"""The lightning states stay behind when the rows of the cache move: beam search mixes the beams.

What      generate with num_beams calls past_key_values.reorder_cache after every token.
Expected  beam search finds the same beams with use_cache=True and with use_cache=False.
Seen      other beams: row i goes on with its own lightning states and with another row's keys.
          reset() leaves the states too, so that the next text starts from the last one's. batch_repeat_interleave and
          batch_select_indices raise IndexError: they look a softmax layer up in a list that ends before it.
Where     MiniMaxCache keeps the states in linear_cache, not in layers, and overrides neither reorder_cache nor reset.
Fix       in MiniMaxCache:
              def reorder_cache(self, beam_idx):
                  super().reorder_cache(beam_idx)
                  self.linear_cache = [s.index_select(0, beam_idx) if len(s) else s for s in self.linear_cache]
              def reset(self):
                  super().reset()
                  self.linear_cache = []
          with layer_idx < len(self.linear_cache), not len(self), in get_linear_cache, and the same test before the
          look-up in the two batch_ methods. In 5.x, DynamicCache with a LinearAttentionLayer for each lightning layer
          would reorder and reset already. (4.57.6's DynamicLayer.reset keeps zeros as keys, in every model.)

    python beams.py             # exit code 1: the trap is there; 0: it is not
"""

import inspect
import sys

import torch
from transformers import MiniMaxConfig, MiniMaxForCausalLM

RIGHT = 1e-4  # relative error of the logits, and beams that differ; float32 alone gives some 1e-6
LENGTH, BEAMS = 12, 4
# The argument's name: Transformers 5.24 renamed it.
CACHE = "cache" if "cache" in inspect.signature(MiniMaxForCausalLM.forward).parameters else "past_key_values"


def model() -> MiniMaxForCausalLM:
    """Three lightning layers, then a softmax layer; random, and large enough that no two beams nearly tie."""
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=16, num_local_experts=2, num_hidden_layers=4)
    heads = dict(num_attention_heads=4, num_key_value_heads=4, head_dim=16)
    tokens = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
    made = MiniMaxForCausalLM(MiniMaxConfig(**sizes, **heads, **tokens, layer_types=kinds))
    torch.manual_seed(0)
    for name, weight in sorted(made.named_parameters()):  # not the experts: versions name them differently
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.0 if "mlp." in name or "moe." in name else 0.3)
    return made.eval()


def beams_that_differ(made: MiniMaxForCausalLM, ids: torch.Tensor) -> float:
    """Of all the sequences that beam search returns: how many are others without the cache."""
    settings = dict(num_beams=BEAMS, num_return_sequences=BEAMS, max_new_tokens=8, do_sample=False, pad_token_id=0)
    with_cache, without = (made.generate(ids, use_cache=use, **settings) for use in (True, False))
    return float((with_cache != without).any(-1).sum())


def after(made: MiniMaxForCausalLM, ids: torch.Tensor, rows: list[int], method: str, argument) -> float | str:
    """Error of the next token's logits once a method of the cache has made it hold `rows`, or what was raised."""
    more = torch.tensor([[5]] * len(rows))
    cache = made(ids, use_cache=True).past_key_values
    try:
        getattr(cache, method)(argument)
        positions = torch.full_like(more, ids.shape[1])
        got = made(more, **{CACHE: cache}, position_ids=positions, use_cache=True).logits
    except (IndexError, RuntimeError) as problem:
        return type(problem).__name__
    whole = made(torch.cat([ids[rows], more], -1)).logits[:, -1:]
    return ((got - whole).norm() / whole.norm()).item()


def after_reset(made: MiniMaxForCausalLM, ids: torch.Tensor) -> float | str:
    """Error of a text's logits on a cache that was reset after another text, or what was raised."""
    cache = made(ids[:1], use_cache=True).past_key_values
    cache.reset()
    positions = torch.arange(ids.shape[1])[None]
    try:
        got = made(ids[1:], **{CACHE: cache}, position_ids=positions, use_cache=True).logits
    except RuntimeError as problem:
        return type(problem).__name__
    want = made(ids[1:]).logits
    return ((got - want).norm() / want.norm()).item()


@torch.no_grad()
def figures() -> dict[str, float | str]:
    made, ids = model(), torch.stack([torch.arange(3, 3 + LENGTH), torch.arange(40, 40 + LENGTH)])
    return {
        f"beams that differ of {BEAMS * len(ids)}": beams_that_differ(made, ids),
        "error, reorder_cache": after(made, ids, [1, 1], "reorder_cache", torch.tensor([1, 1])),
        "error, batch_repeat_interleave": after(made, ids, [0, 0, 1, 1], "batch_repeat_interleave", 2),
        "error, batch_select_indices": after(made, ids, [1], "batch_select_indices", torch.tensor([1])),
        "error, reset": after_reset(made, ids),
    }


def main() -> int:
    found = figures()
    print("beams:", "; ".join(f"{k} {v if isinstance(v, str) else f'{v:.2g}'}" for k, v in found.items()))
    return int(any(isinstance(v, str) or v > RIGHT for v in found.values()))


if __name__ == "__main__":
    sys.exit(main())
