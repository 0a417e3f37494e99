"""The group of processes: how one joins it, adds its numbers to the others', and leaves.

torchrun starts the processes and tells each its rank by environment variables. On NVIDIA GPUs they talk through NCCL,
on CPUs through gloo. All of them must make the same calls in the same order: a rank that leaves one out lets the others
wait. When a rank fails, torchrun ends the others.
"""

import atexit
import gc
import os
import sys
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import UsageMistake
from ..language import tr

TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # by torchrun
HOW = "start it as  torchrun --nproc-per-node 2 script.py  with the number of your GPUs"
GATHER = getattr(dist, "all_gather_single", getattr(dist, "all_gather_into_tensor", None))  # before PyTorch 2.13
PATIENCE = timedelta(minutes=30)  # for a rank that reads its weights more slowly; one that fails is noticed at once


class Ranks(NamedTuple):
    """Which of how many processes this one is."""

    rank: int
    size: int

    def described(self) -> str:
        """For the line that load() prints."""
        return tr("rank {rank} of {size}: ", rank=self.rank, size=self.size) if self.size > 1 else ""

    def device(self) -> int:
        """The number of this rank's GPU on its machine, which `start` took."""
        return torch.cuda.current_device()


ALONE = Ranks(0, 1)


def start() -> Ranks:
    """Join the group, unless this process is in one, and take this rank's GPU if there are any.

    UsageMistake outside of torchrun, or if there are more processes on this machine than GPUs.
    """
    if not dist.is_available():
        raise UsageMistake("this PyTorch was built without torch.distributed, which tp=True needs")
    if dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    if missing := [name for name in TOLD if name not in os.environ]:
        raise UsageMistake(f"tp=True needs one process for each GPU, and {missing[0]} is not set: {HOW}")
    device = None
    if torch.cuda.is_available():
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if here > gpus:
            raise UsageMistake(f"{here} processes and {gpus} GPUs on this machine: torchrun --nproc-per-node {gpus}")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device else "gloo", timeout=PATIENCE, device_id=device)
    atexit.register(_at_exit)
    return Ranks(dist.get_rank(), dist.get_world_size())


def close() -> None:
    """Leave the group. Called by itself when a process ends well; split models cannot compute after it.

    CUDA graphs go first: they hold all-reduces of the group, and a group that is destroyed before them hangs.
    """
    from ..decode.dispatch import forget

    forget()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    if dist.is_initialized():
        dist.destroy_process_group()


def _at_exit() -> None:
    """Not after an error: the others may never come to an agreement about the end, and torchrun ends them."""
    if getattr(sys, "last_value", None) is None:
        close()


def is_first() -> bool:
    """Whether this process is the one that speaks for all: rank 0, or a process without a group."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def sum_over_ranks(x: Tensor) -> Tensor:
    """x, the sum over all ranks of what each holds; in place."""
    require_no_gradients(x)
    dist.all_reduce(x)
    return x


def require_no_gradients(x: Tensor) -> None:
    """RuntimeError if a gradient would have to go through the other ranks."""
    if x.requires_grad:
        raise RuntimeError("a model split over ranks computes no gradients: train in one process, without tp=True")


def join_last(x: Tensor) -> Tensor:
    """(..., n) of each rank -> (..., ranks * n), in the order of the ranks."""
    require_no_gradients(x)
    size, rows = dist.get_world_size(), x.shape[:-1].numel()
    parts = x.new_empty(size, rows, x.shape[-1])
    GATHER(parts.view(-1), x.contiguous().view(-1))
    return parts.transpose(0, 1).reshape(*x.shape[:-1], -1)  # for one row no copy


def agree(ids: Tensor | None, device: torch.device) -> None:
    """Before `generate`: the same prompt on all ranks, and the same random numbers as on rank 0.

    ids: token ids or embeddings of any shape. RuntimeError, on all ranks, if they differ.
    """
    if ids is not None:
        shape = (*ids.shape, *[0] * 4)[:4]
        places = torch.arange(1, ids.numel() + 1, device=ids.device, dtype=torch.float64)
        total = (ids.flatten().double() * places).sum().item()
        mine = torch.tensor([*shape, total], dtype=torch.float64, device=device)
        all_of_them = join_last(mine[:, None]).T
        if not (all_of_them == mine).all():
            raise RuntimeError(
                "the ranks were given different prompts: with tp=True they compute one text together, so read "
                "the prompt on all of them, or read it on one and broadcast it"
            )
    state = torch.get_rng_state().to(device)
    dist.broadcast(state, 0)
    torch.set_rng_state(state.cpu())
    if device.type == "cuda":
        state = torch.cuda.get_rng_state(device).to(device)
        dist.broadcast(state, 0)
        torch.cuda.set_rng_state(state.cpu(), device)
