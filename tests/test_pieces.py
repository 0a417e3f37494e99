"""Prompts in pieces: the memory that a piece needs, and what it computes.

Measured: notebooks/results/flash_attention_h200.json (the model with Transformers' grouped_mm for the experts) and
experts_h200.json (the experts by our kernels).
"""

import json
from pathlib import Path

import pytest

from minimax_nb.original import original_config
from minimax_nb.pieces import CUBLAS, LIMIT, STEP, piece_tokens, stages, workspace_bytes

RESULTS = Path(__file__).resolve().parents[1] / "notebooks" / "results"
REAL = original_config()
OF_LAYERS = 8  # measured: one hybrid period, seven states and one layer of keys
GB = 10**9


def measured(attention: str, lightning: str) -> list[tuple[int, int, float]]:
    """(batch, tokens, bytes beside weights and cache) of each prefill in bf16 from 4,096 tokens."""
    rows = json.loads((RESULTS / "flash_attention_h200.json").read_text())["rows"]
    found = []
    for row in rows:
        chosen = row["attention"], row["lightning"], row["dtype"], row.get("what")
        if chosen == (attention, lightning, "bfloat16", "prefill") and "extra_gb" in row:
            batch, tokens = row["batch"], row["length"]
            keys = 2 * batch * tokens * REAL["num_key_value_heads"] * REAL["head_dim"] * 2
            of_state = 2 if lightning == "stock" else 4
            states = (OF_LAYERS - 1) * batch * REAL["num_attention_heads"] * REAL["head_dim"] ** 2 * of_state
            if batch * tokens >= 4096:
                found.append((batch, tokens, row["extra_gb"] * GB - keys - states))
    return found


@pytest.mark.parametrize("lightning", ["fused", "stock"])
@pytest.mark.parametrize("attention", ["sdpa_by_length", "sdpa", "eager", "flash_attention_2"])
def test_workspace_is_what_was_measured(attention, lightning):
    rows = measured(attention, lightning)
    assert len(rows) >= (2 if attention == "eager" else 5) or lightning == "stock"
    for batch, tokens, extra in rows:
        how = {"attention": attention, "lightning": lightning, "expert_kernels": False}
        said = workspace_bytes(REAL, batch, tokens, tokens, 2, **how) - CUBLAS  # which was there before the pass
        assert said == pytest.approx(extra, rel=0.03)


def test_experts_by_our_kernels_take_what_was_measured():
    rows = json.loads((RESULTS / "experts_h200.json").read_text())["rows"]
    for row in rows:
        tokens = row["tokens"]
        if tokens >= 1024:
            said = stages(REAL, 1, tokens, tokens, 2, "sdpa_by_length", "fused", True, False)["experts"]
            routing_and_attended = tokens * (32 * 2 + 2 * 12 + 6144 * 2)
            assert said - routing_and_attended == pytest.approx(row["minimax_nb"]["temporary_gb"] * GB, rel=0.01)


@pytest.mark.parametrize("context", [131072, 1_000_000, 10_240_000])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_piece_keeps_experts_busy_and_stays_in_its_memory(context, batch):
    tokens = piece_tokens(REAL, batch, context, 2, 20 * GB)
    assert tokens % STEP == 0
    assert batch * tokens > 16384 or context > 2_000_000
    assert workspace_bytes(REAL, batch, tokens, context, 2) <= LIMIT or tokens == STEP
