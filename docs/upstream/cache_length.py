"""The cache reads its length from layer 0, which is lightning attention and holds no keys: the length is always 0.

What      masks and positions are built from past_key_values.get_seq_length() and get_mask_sizes().
Expected  a pass on a kept cache gives what one pass over the whole text gives, with padding on the left too.
Seen      get_seq_length() is 0 after any number of tokens. A left-padded batch in generate is wrong from the second new
          token on; a second turn on a kept cache is wrong with sdpa and raises with eager; tokens fed one by one
          without position_ids all get position 0. A batch of one through generate is right.
Where     MiniMaxCache inherits DynamicCache.get_seq_length and get_mask_sizes, which ask layer 0. MiniMax-Text-01 has
          its first softmax layer at index 7; layers 0 to 6 are empty DynamicLayers there.
Fix       in MiniMaxCache, ask the first layer that holds keys:
              def _with_keys(self): return next((i for i, x in enumerate(self.layers) if x.get_seq_length()), 0)
              def get_seq_length(self, layer_idx=0): return super().get_seq_length(self._with_keys())
              def get_mask_sizes(self, length, layer_idx=0): return super().get_mask_sizes(length, self._with_keys())
          In 5.x, DynamicCache with a LinearAttentionLayer for each lightning layer already looks for the first layer
          that holds keys: a model that used it would need neither.

    python cache_length.py      # exit code 1: the trap is there; 0: it is not
"""

import inspect
import sys

import torch
from transformers import MiniMaxConfig, MiniMaxForCausalLM

RIGHT = 1e-4  # relative error of the logits, and tokens not counted; float32 alone gives some 1e-6
ROWS = (torch.arange(3, 23), torch.arange(30, 37))  # 20 and 7 tokens
# The argument's name: Transformers 5.24 renamed it.
CACHE = "cache" if "cache" in inspect.signature(MiniMaxForCausalLM.forward).parameters else "past_key_values"


def model(attention: str = "sdpa") -> MiniMaxForCausalLM:
    """Three lightning layers, then a softmax layer; random, and large enough for peaked attention."""
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=16, num_local_experts=2, num_hidden_layers=4)
    heads = dict(num_attention_heads=4, num_key_value_heads=4, head_dim=16)
    tokens = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
    made = MiniMaxForCausalLM(
        MiniMaxConfig(**sizes, **heads, **tokens, layer_types=kinds, attn_implementation=attention)
    )
    torch.manual_seed(0)
    for name, weight in sorted(made.named_parameters()):  # not the experts: versions name them differently
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.0 if "mlp." in name or "moe." in name else 0.5)
    return made.eval()


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def in_turns(made: MiniMaxForCausalLM, *turns: torch.Tensor) -> float | str:
    """Turns fed to one cache without position_ids: the error of the last one's logits, or what was raised."""
    cache = made(turns[0][None], use_cache=True).past_key_values
    try:
        for turn in turns[1:]:
            got = made(turn[None], **{CACHE: cache}, use_cache=True).logits[0]
    except RuntimeError as problem:
        return type(problem).__name__
    return relative(got, made(torch.cat(turns)[None]).logits[0, -len(turns[-1]) :])


def padded_batch(made: MiniMaxForCausalLM, new: int = 4) -> float:
    """generate on left-padded rows: the worst row's error in the logits of the second new token and those after."""
    width = max(map(len, ROWS))
    ids, mask = torch.zeros(2, len(ROWS), width, dtype=torch.long)
    for i, row in enumerate(ROWS):
        ids[i, -len(row) :], mask[i, -len(row) :] = row, 1
    settings = dict(max_new_tokens=new, do_sample=False, output_logits=True, return_dict_in_generate=True)
    out = made.generate(ids, attention_mask=mask, pad_token_id=0, **settings)
    errors = []
    for i, row in enumerate(ROWS):
        alone = made(out.sequences[i, width - len(row) :][None], use_cache=False).logits[0]
        errors.append(relative(torch.stack(out.logits[1:], 1)[i], alone[len(row) : len(row) + new - 1]))
    return max(errors)


@torch.no_grad()
def figures() -> dict[str, float | str]:
    first, second = ROWS
    made = model()
    cache = made(first[None], use_cache=True).past_key_values
    return {
        f"tokens not counted of {len(first)}": float(len(first) - cache.get_seq_length()),
        "error, padded batch": padded_batch(made),
        "error, second turn with sdpa": in_turns(made, first, second),
        "error, second turn with eager": in_turns(model("eager"), first, second),
        "error, tokens one by one": in_turns(made, first, *second.split(1)),
    }


def main() -> int:
    found = figures()
    print("cache_length:", "; ".join(f"{k} {v if isinstance(v, str) else f'{v:.2g}'}" for k, v in found.items()))
    return int(any(isinstance(v, str) or v > RIGHT for v in found.values()))


if __name__ == "__main__":
    sys.exit(main())
