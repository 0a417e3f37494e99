"""What one decoded token takes from the state of a head that forgets slowly."""

import torch
from torch import Tensor

from minimax_nb.lightning import slopes


def lost(ops, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The share that a step of `ops` takes from a state, and the share that it should take, both (1,) in float64.

    The roundings of 4,096 values cancel out. exp(-slope) rounded to fp32 would be 8e-5 off, in every step.
    """
    rate = slopes(64, layer=78, layers=80)[39:40]  # of this layer's heads the one that rounding hurts most
    state, nothing = torch.randn(1, 1, 64, 64, device=device), torch.zeros(1, 3 * 64, device=device)
    before = state.double()
    ops.decay_and_read(nothing, rate.to(device), state, 1)
    share = ((state.double() - before) * before).sum() / before.square().sum()
    return share.cpu()[None], torch.expm1(-rate.double())
