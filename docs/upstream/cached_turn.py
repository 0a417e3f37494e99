"""A turn of n tokens on a kept cache goes token by token, in Python, through every lightning layer.

What      with a state in the cache, lightning attention takes another branch: a loop over the new tokens.
Expected  the blocks of 256 that a first turn is computed in, started from the state: the number of operations follows
          n / 256, as it does without a cache.
Seen      for eight times the new tokens, 7.3 times the operations, and 32 times as many as without a cache. The result
          is right; it is slow, most of all on a GPU, where each of these small operations is a launch.
Where     MiniMaxLightningAttention.forward, the else branch: for i in range(seq_len).
Fix       the blocks already take a state: they start from zeros there. Close the first if after the zeros,
              if attn_weights_inter is None:
                  attn_weights_inter = torch.zeros(...)
              if seq_len > 1:
                  (the loop over blocks, as it is)
              else:
                  (one step, as it is)

Counted are operations that PyTorch dispatches in one layer, not seconds: the figure is the same on any machine.

    python cached_turn.py       # exit code 1: the trap is there; 0: it is not
"""

import inspect
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MiniMaxConfig, MiniMaxForCausalLM

FIRST, FEW, MANY = 20, 16, 128  # tokens; all within one block
RIGHT = 1.5  # operations for MANY tokens, relative to those for FEW
# The argument's name: Transformers 5.24 renamed it.
CACHE = "cache" if "cache" in inspect.signature(MiniMaxForCausalLM.forward).parameters else "past_key_values"


class Counter(TorchDispatchMode):
    """Counts the operations inside its `with`."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def model() -> MiniMaxForCausalLM:
    torch.manual_seed(0)
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=16, num_local_experts=2, num_hidden_layers=2)
    heads = dict(num_attention_heads=4, num_key_value_heads=4, head_dim=16)
    return MiniMaxForCausalLM(
        MiniMaxConfig(**sizes, **heads, layer_types=["linear_attention", "full_attention"])
    ).eval()


@torch.no_grad()
def operations(made: MiniMaxForCausalLM, first: int, new: int) -> int:
    """Operations of the lightning layer in a pass of `new` tokens on a cache of `first`; no cache if that is 0."""
    counter, layer = Counter(), made.model.layers[0].self_attn
    cache = made(torch.ones(1, first, dtype=torch.long), use_cache=True).past_key_values if first else None
    hooks = [
        layer.register_forward_pre_hook(lambda *_: (counter.__enter__(), None)[1]),
        layer.register_forward_hook(lambda *_: counter.__exit__(None, None, None)),
    ]
    # Positions are given, so that the masks do not ask the cache for its length.
    positions = torch.arange(first, first + new)[None]
    made.model(torch.ones_like(positions), **{CACHE: cache}, position_ids=positions, use_cache=True)
    for hook in hooks:
        hook.remove()
    return counter.count


def figures() -> dict[str, float]:
    made = model()
    few, many = (operations(made, FIRST, new) for new in (FEW, MANY))
    alone = operations(made, 0, MANY)
    return {f"operations, {MANY} tokens / {FEW}": many / few, "operations, cached / not cached": many / alone}


def main() -> int:
    found = figures()
    print("cached_turn:", "; ".join(f"{k} {v:.2g}" for k, v in found.items()))
    return int(any(v > RIGHT for v in found.values()))


if __name__ == "__main__":
    sys.exit(main())
