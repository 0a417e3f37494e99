"""What a step writes to: states, keys and values of fixed addresses, and where in them the new token belongs.

A buffer for keys has room for more tokens than there are, and twice the room when that is used up. So a step allocates
nothing, and a CUDA graph, which knows addresses and not shapes, serves until the room grows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

LEAST = 1024  # tokens of room to begin with
LARGE = 65536  # room over all rows that is not kept while something else copies it: 0.27 GB a layer at real width


@dataclass
class Place:
    """Where the new token of each row belongs, on one device.

    A step leaves `at` and `positions` ready for the next one, so that a GPU need not be told. There `length`, a Python
    number, is what only the host goes by.
    """

    length: int  # tokens held before this one, pads included
    at: Tensor  # the same, int64 (1,)
    positions: Tensor  # of the new token, for the rotation, int64 (b,)
    keep: Tensor  # bool (b, room), False at pads
    padded: bool = False  # whether `keep` has to be read
    ready: int = 0  # what `at` says, -1 if unknown
    counted: bool = True  # whether `positions` say the same as `at`

    @classmethod
    def on(cls, device: torch.device, batch: int, room: int) -> "Place":
        at, positions = (torch.zeros(n, dtype=torch.long, device=device) for n in (1, batch))
        return cls(0, at, positions, torch.ones(batch, room, dtype=torch.bool, device=device))

    def mark(self, fed: Tensor | None) -> None:
        """What the cache was fed: (b, length), false at pads, or None if there are none. What comes is no pad."""
        self.padded = fed is not None
        self.keep.fill_(True)
        if fed is not None:
            self.keep[:, : fed.shape[1]].copy_(fed)

    def point(self, length: int, positions: Tensor | None) -> None:
        """Where the next token belongs: after `length`, at `positions` or else after so many that are no pads.

        Nothing here waits for a GPU.
        """
        told, self.length, self.ready = self.ready == length, length, length + 1
        if not told:
            self.at.fill_(length)
        if positions is not None:
            self.positions.copy_(positions)
        elif self.padded:
            self.positions.copy_(self.keep[:, :length].sum(1))
        elif not (told and self.counted):
            self.positions.fill_(length)
        self.counted = positions is None and not self.padded


@dataclass
class Buffers:
    """Those of one batch size. `states` and `keys` are by layer index; a layer is in one of the two."""

    batch: int
    room: int
    states: dict[int, Tensor] = field(default_factory=dict)  # (b, h, n, n) in fp32
    keys: dict[int, tuple[Tensor, Tensor] | None] = field(default_factory=dict)  # keys and values, (b, g, room, n)
    places: dict[torch.device, Place] = field(default_factory=dict)


def room_for(length: int) -> int:
    """The next power of two from `length`, at least LEAST."""
    return max(LEAST, 1 << (length - 1).bit_length())


@torch.inference_mode(False)  # a tensor made in inference mode could not be written to outside it
def made(layers: list, batch: int, room: int, dtype: torch.dtype) -> Buffers:
    """Buffers for these decoder layers, each on its layer's device; those for keys are made later, by `keys_for`."""
    buffers = Buffers(batch, room)
    for index, layer in enumerate(layers):
        attention = layer.self_attn
        device = layer.input_layernorm.weight.device
        buffers.places.setdefault(device, None)
        if hasattr(attention, "qkv_proj"):
            shape = (batch, attention.num_attention_heads, attention.head_dim, attention.head_dim)
            buffers.states[index] = torch.zeros(shape, device=device)
        else:
            buffers.keys[index] = None
    for device in buffers.places:
        buffers.places[device] = Place.on(device, batch, room)
    return buffers


@torch.inference_mode(False)
def keys_for(buffers: Buffers, layers: list, index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Those of one softmax layer, made if they are not there yet."""
    if buffers.keys[index] is None:
        layer = layers[index]
        device = layer.input_layernorm.weight.device
        buffers.keys[index] = _pair(buffers.batch, layer.self_attn, buffers.room, dtype, device)
    return buffers.keys[index]


@torch.inference_mode(False)
def grow(buffers: Buffers, layers: list, room: int, moved: Callable[[int], None]) -> None:
    """More room for keys, with what they hold. States stay where they are.

    One layer after the other: `moved` hears of each and lets go of the old ones, before the next is asked for.
    """
    for index, pair in buffers.keys.items():
        larger = _pair(buffers.batch, layers[index].self_attn, room, pair[0].dtype, pair[0].device)
        for i in range(2):
            larger[i][:, :, : buffers.room].copy_(pair[i])
        buffers.keys[index] = larger
        moved(index)
    for device, place in buffers.places.items():
        new = Place.on(device, buffers.batch, room)
        new.keep[:, : place.keep.shape[1]].copy_(place.keep)
        new.padded = place.padded
        buffers.places[device] = new
    buffers.room = room


def _pair(batch: int, attention, room: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Zeros, for a mask hides what was never written but cannot hide a nan among it."""
    heads = attention.k_proj.out_features // attention.head_dim
    shape = (batch, heads, room, attention.head_dim)
    return torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device)
