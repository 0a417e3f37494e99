"""A rank that fails while another waits for it: tests/test_parallel.py starts it by torchrun."""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from minimax_nb.parallel.ranks import start, sum_over_ranks  # noqa: E402

ranks = start()
device = "cuda" if torch.cuda.is_available() else "cpu"
for turn in range(10):
    if turn == 5 and ranks.rank == 1:
        print(f"fails at {time.time()}", flush=True)
        raise RuntimeError("rank 1 breaks")
    total = sum_over_ranks(torch.ones(1000, device=device))
    assert (total == ranks.size).all()
