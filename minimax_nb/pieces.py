"""How much memory one forward pass needs beside weights and cache, and how long a piece of a prompt may be for it.

    workspace_bytes(config, batch=1, tokens=131072, context=131072, element_bytes=2)     # 18 GB: one shot
    piece_tokens(config, batch=1, context=131072, element_bytes=2, free_bytes=20e9)      # 27,648 tokens: 3.8 GB

Everything here is arithmetic from the config, in tokens and bytes, so it imports no torch. Each term is a tensor that
a layer holds at its busiest moment. They were read in Transformers 5.24.0 (models/minimax/modeling_minimax.py,
integrations/moe.py) and in lightning/, experts/, norms/ and attention.py here. tests/test_pieces.py holds them to
memory that was measured on an H200 (notebooks/results/flash_attention_h200.json, experts_h200.json).

How long should a piece be? The experts decide. Each piece reads all of them once. At real width they are 10.9 GB a
layer, which takes 2.4 ms at 4.49 TB/s. Computing takes 0.84 us a token at 805 TFLOP/s, so a piece below 3,000 tokens
waits for memory. Measured, a token costs a layer's experts 1.25 us in a piece of 4,096 tokens, 1.06 us in one of
16,384, and 1.07 us where 131,072 come at once. So a piece is as long as 4 GB allow, and shorter only where less
memory is free. Then 131,072 tokens take 1.006 times as long as at once. In pieces of 16,384 tokens it is 1.03 times,
and in pieces of 8,192, which cuDNN's attention does not serve, 1.2 times (long_prompts_h200.json).
"""

from collections.abc import Mapping

LIMIT = 3_800_000_000  # bytes: a piece takes no more even where more is free
STEP = 256  # tokens: the block of Transformers' lightning attention
CUBLAS = 32 << 20  # bytes: PyTorch's own workspace for matrix products on a Hopper GPU
CHUNK = 64  # tokens of a chunk in the fused lightning kernels (lightning/fused.py)
SEGMENT = 8192  # tokens that the torch lightning backend holds in fp32 at a time (lightning/operator.py); 512 on a CPU
BLOCK = 64  # tokens of a block in such a segment
EXPERT_CHUNK = 65536  # tokens that the expert kernels take at a time (experts/launch.py)
MASKED = ("sdpa", "eager")  # implementations that are given a mask, (new tokens, all tokens)


def workspace_bytes(
    config: Mapping | object,
    batch: int,
    tokens: int,
    context: int,
    element_bytes: int,
    *,
    attention: str = "sdpa_by_length",
    lightning: str = "fused",
    expert_kernels: bool = True,
    float16: bool = False,
    segment: int = SEGMENT,
) -> int:
    """The peak of memory on one GPU in a forward pass of `tokens` new tokens a row, beside weights and cache.

    config: native, as a dict or an object. context: tokens of a row in all, these included. element_bytes: of a number
    in the model's dtype. The defaults are what `load()` takes on a GPU with the extra [fast]; on a CPU it takes
    lightning="torch", expert_kernels=False, segment=512. float16: the fused lightning kernels then compute in fp32.
    The head is asked for the last token of a row only.
    """
    size, rows = Sizes(config), batch * tokens
    embeddings = layer_input = normed = rows * size.hidden * element_bytes
    rotation = 2 * rows * size.head_dim * element_bytes  # cosines and sines
    held = embeddings + layer_input + normed + rotation + CUBLAS
    busiest = (
        _lightning(size, batch, rows, element_bytes, lightning, 4 if float16 else element_bytes, segment),
        _softmax(size, batch, tokens, context, element_bytes, attention),
        experts_bytes(size, rows, element_bytes, expert_kernels),
        batch * size.vocabulary * (element_bytes + 4),  # logits, and once more in fp32
    )
    return held + max(busiest)


def piece_tokens(
    config: Mapping | object, batch: int, context: int, element_bytes: int, free_bytes: float, **how
) -> int:
    """How many tokens of a row a piece takes, so that its workspace stays within `free_bytes` and LIMIT.

    A multiple of STEP, and STEP at least: where even that does not fit, nothing else would. context: the tokens that
    a row will hold at the end. how: as in workspace_bytes. If all of the context fits, it is one piece.
    """
    room = min(free_bytes, LIMIT)

    def fits(steps: int) -> bool:
        tokens = min(steps * STEP, context)
        return workspace_bytes(config, batch, tokens, context, element_bytes, **how) <= room

    low, high = 1, max(1, -(-context // STEP))
    while low < high:  # the largest number of steps that fits: the workspace grows with each
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low * STEP


def token_bytes(config: Mapping | object, element_bytes: int) -> int:
    """Of the key and the value of one token in one softmax layer."""
    return 2 * Sizes(config).kv_width * element_bytes


class Sizes:
    """The widths that decide, read from a config."""

    def __init__(self, config: Mapping | object):
        def read(name: str, otherwise=None):
            found = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
            return otherwise if found is None else found

        self.hidden, self.heads = read("hidden_size"), read("num_attention_heads")
        self.head_dim = read("head_dim", self.hidden // self.heads)
        self.width = self.heads * self.head_dim  # of q, and of attention's output
        self.kv_width = read("num_key_value_heads", self.heads) * self.head_dim
        self.experts, self.top_k = read("num_local_experts"), read("num_experts_per_tok")
        self.intermediate, self.vocabulary = read("intermediate_size"), read("vocab_size")


def _lightning(
    size: Sizes, batch: int, rows: int, element_bytes: int, backend: str, exact_bytes: int, segment: int
) -> int:
    value = rows * size.width  # numbers in one of q, k, v, gate and out
    qkv, gate = 3 * value * element_bytes, value * element_bytes
    states = 2 * batch * size.width * size.head_dim * 4  # the old one and the new one
    if backend == "fused":
        split, out = 3 * value * exact_bytes, value * exact_bytes
        of_chunks = value * size.head_dim // CHUNK * exact_bytes  # a state at the beginning of each chunk
        gated = gate
        return states + max(qkv + split, split + of_chunks + out, out + gate + gated)
    out = value * element_bytes
    if backend == "stock":  # q, k, v as they are, a block at a time, and the blocks together
        normed = 2 * value * 4
        return states + max(2 * qkv, qkv + 2 * out, qkv + 2 * out + normed)
    operands = 8 if element_bytes == 4 else 10  # numbers of fp32 for each of v: q, k, v, and products of them
    per_value = operands + 3 * max(1, size.head_dim // BLOCK)  # and the states of blocks
    segment = min(rows, segment) * size.width * 4 * per_value
    joined = 2 * out
    in_fp32 = 2 * value * 4  # of the norm
    return states + max(qkv + out + segment, qkv + joined, out + in_fp32 + 2 * gate)


def _softmax(size: Sizes, batch: int, tokens: int, context: int, element_bytes: int, attention: str) -> int:
    rows = batch * tokens
    query, new_keys = rows * size.width * element_bytes, rows * size.kv_width * element_bytes
    rotating = 4 * query + 2 * new_keys  # q, q * cos, its halves exchanged, and those * sin
    summed, part, out = rows * size.width * 4, query, query  # parts of the context are added up in fp32
    attending = query + summed + part + out
    if attention in MASKED and 1 < tokens < context or attention == "eager":
        pairs = batch * tokens * context
        mask = pairs * (1 + element_bytes)  # of bool, and as what is added to the scores
        repeated = 2 * batch * context * size.width * element_bytes  # keys and values for each head
        in_fp32 = 4 if element_bytes == 4 else 8  # the softmax, and what goes into it
        scores = size.heads * pairs * (element_bytes + in_fp32) if attention == "eager" else 0
        attending = query + out + mask + repeated + scores
    return max(rotating, attending)  # growing the cache copies nothing: a prefill reserves its room beforehand


def experts_bytes(size: Sizes, rows: int, element_bytes: int, kernels: bool) -> int:
    """At the busiest moment of a mixture of experts, for `rows` tokens; by our kernels or Transformers' grouped_mm."""
    slots = rows * size.top_k
    routing = rows * size.experts * element_bytes + slots * 12  # logits; weights in fp32, and numbers of experts
    out = rows * size.hidden * element_bytes
    if kernels:
        slots = min(rows, EXPERT_CHUNK) * size.top_k
        sorted_tokens = slots * size.hidden * element_bytes
        product = slots * size.intermediate * element_bytes
        attended = out  # what attention gave is still held by the fused decoder layer
        return routing + attended + sorted_tokens + product + out
    sorted_tokens = slots * size.hidden * element_bytes
    gate_up, activated, product = (slots * n * size.intermediate * element_bytes for n in (2, 1, 1))
    return routing + slots * 24 + sorted_tokens + gate_up + activated + product
