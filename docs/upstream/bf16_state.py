"""In bfloat16 the decay and the recurrent state of lightning attention are bfloat16 too, and the error piles up.

What      from_pretrained(dtype=bfloat16) casts slope_rate and the three decay buffers; the state takes the dtype of v.
Expected  the output within some 0.5 % of float64 on the same weights and inputs: what rounding in and out costs.
Seen      7 to 15 % in 256 cached steps, more with more of them. exp(-slope) lies just below 1, where bfloat16 has
          steps of 0.004, so slow heads decay too fast, too slowly or not at all; and small terms are lost when they are
          added to a large state. Prefill rounds once a block, and is within 0.5 % here.
Where     MiniMaxLightningAttention: the buffers in __init__, attn_weights_inter and ratio in forward. MiniMax's own
          code keeps slopes and state in float32 (modeling_minimax_text_01.py); vLLM moved its state to float32 after
          missing characters and repetitions had been seen (vllm-project/vllm, pull request 19592).
Fix       name the four buffers in _keep_in_fp32_modules_strict; split qkv_states.float() into q, k, v; and give
          attn_output.to(hidden_states.dtype) to self.norm. The state then is float32. Its size does not depend on the
          length of the text.

The yardstick is the recurrence in float64, with exact slopes, on the layer's own bfloat16 weights and inputs. There is
no softmax layer: nothing here comes from the cache's length or from RoPE.

    python bf16_state.py        # exit code 1: the trap is there; 0: it is not
"""

import inspect
import sys
import tempfile

import torch
from transformers import MiniMaxConfig, MiniMaxForCausalLM, logging

HIDDEN, HEADS, HEAD_DIM, LAYERS = 32, 8, 16, 3  # whatever the number of heads, the slopes end at 2^-8
PREFILL, STEPS = 256, 256
RIGHT = 0.01  # relative error
# The argument's name: Transformers 5.24 renamed it.
CACHE = "cache" if "cache" in inspect.signature(MiniMaxForCausalLM.forward).parameters else "past_key_values"


def model() -> MiniMaxForCausalLM:
    """Saved in float32 and loaded in bfloat16, as one does; the middle layer has half the slopes of layer 0."""
    sizes = dict(vocab_size=8, hidden_size=HIDDEN, intermediate_size=8, num_local_experts=2, num_hidden_layers=LAYERS)
    heads = dict(num_attention_heads=HEADS, num_key_value_heads=HEADS, head_dim=HEAD_DIM)
    made = MiniMaxForCausalLM(MiniMaxConfig(**sizes, **heads, layer_types=["linear_attention"] * LAYERS))
    torch.manual_seed(0)
    for name, weight in sorted(made.named_parameters()):  # not the experts: versions name them differently
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.0 if "mlp." in name or "moe." in name else HIDDEN**-0.5)
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return MiniMaxForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


def by_definition(layer: torch.nn.Module, index: int, h: torch.Tensor) -> torch.Tensor:
    """Per head and token, S = exp(-slope) S + k v^T and out = q S, in float64; (length, hidden) in and out."""
    slope = 2.0 ** (-8 * torch.arange(1, HEADS + 1, dtype=torch.float64) / HEADS)
    decay = torch.exp(-slope * (1 - index / (LAYERS - 1) + 1e-5))[:, None, None]
    h, qkv_weight, gate, norm, out = (
        x.detach().double()
        for x in (h, layer.qkv_proj.weight, layer.output_gate.weight, layer.norm.weight, layer.out_proj.weight)
    )
    q, k, v = torch.nn.functional.silu(h @ qkv_weight.T).view(len(h), HEADS, 3 * HEAD_DIM).split(HEAD_DIM, -1)
    state, rows = torch.zeros(HEADS, HEAD_DIM, HEAD_DIM, dtype=torch.float64), []
    for token in range(len(h)):
        state = decay * state + k[token][:, :, None] * v[token][:, None, :]
        rows.append((q[token][:, None, :] @ state).flatten())
    x = torch.stack(rows)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + layer.norm.variance_epsilon) * norm
    return (torch.sigmoid(h @ gate.T) * x) @ out.T


@torch.no_grad()
def figures() -> dict[str, float]:
    """Relative errors of prefill and of the cached steps after it, in layers 0 and 1 of 3."""
    made, seen = model(), {0: [], 1: []}
    for index in seen:
        made.model.layers[index].self_attn.register_forward_hook(
            lambda _, args, kwargs, out, index=index: seen[index].append((kwargs["hidden_states"][0], out[0][0])),
            with_kwargs=True,
        )
    torch.manual_seed(1)
    x, cache = torch.randn(1, PREFILL + STEPS, HIDDEN, dtype=torch.bfloat16), None
    for part in x.split([PREFILL] + [1] * STEPS, 1):
        cache = made.model(inputs_embeds=part, **{CACHE: cache}, use_cache=True).past_key_values
    found = {}
    for index, passes in seen.items():
        h, got = (torch.cat(parts) for parts in zip(*passes, strict=True))
        want = by_definition(made.model.layers[index].self_attn, index, h)
        for name, part in {"prefill": slice(PREFILL), f"{STEPS} steps": slice(PREFILL, None)}.items():
            error = (got[part].double() - want[part]).norm() / want[part].norm()
            found[f"error, {name}{', half the slopes' if index else ''}"] = error.item()
    return found


def main() -> int:
    logging.disable_progress_bar()
    found = figures()
    print("bf16_state:", "; ".join(f"{k} {v:.2g}" for k, v in found.items()))
    return int(any(v > RIGHT for v in found.values()))


if __name__ == "__main__":
    sys.exit(main())
