"""The cut of a model's layers over GPUs, by weights and keys.

    cut([5, 5, 5, 5], keys=[0, 1, 0, 1], free=[16, 16], longest=100, beside=0)          # [0, 0, 1, 1]

A softmax layer's keys grow with the text, and a lightning layer holds none. So the GPU that is full first is the one
with two softmax layers, and it should get fewer layers than the others.
"""

from collections.abc import Sequence

from ..pieces import LIMIT

EXACT = 1 << 20  # bytes, to which the largest load is found


def cut(
    layers: Sequence[int], keys: Sequence[int], free: Sequence[float], longest: int, beside: int = LIMIT
) -> list[int] | None:
    """The GPU of each layer, in order; None if the layers do not fit.

    layers: bytes of each layer's weights, the first with the embedding, the last with the head. keys: bytes of each
    for a token. free: bytes of each GPU, of which a pass takes `beside`. Among all such cuts it is the one that has
    room for the most tokens, `longest` at most, and at this length leaves the fullest GPU the most to spare.
    """

    def loads(tokens: int) -> list[int]:
        return [weights + tokens * each for weights, each in zip(layers, keys, strict=True)]

    def fits(tokens: int) -> bool:
        return _filled(loads(tokens), free, beside) is not None

    tokens = _largest(fits, longest) if fits(0) else 0
    at_length = loads(tokens)
    if _filled(at_length, free, 0) is None:
        return None
    spare = _largest(lambda steps: _filled(at_length, free, steps * EXACT) is not None, int(max(free)) // EXACT)
    return _filled(at_length, free, spare * EXACT)


def _filled(loads: Sequence[int], free: Sequence[float], spare: float) -> list[int] | None:
    """As many layers on each GPU as leave it `spare` bytes, one GPU after another; None if some are left over.

    No other cut that keeps the order needs fewer GPUs: each has come as far as it can.
    """
    found, gpu, held = [], 0, 0
    for load in loads:
        while gpu < len(free) and held + load > free[gpu] - spare:
            gpu, held = gpu + 1, 0
        if gpu == len(free):
            return None
        found.append(gpu)
        held += load
    return found


def _largest(fits, most: int) -> int:
    """The largest number up to `most` that fits, where 0 does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
