"""Where layers lie on several GPUs: our cut against every other one, against Transformers', and at its ends."""

import itertools
import random
from collections import Counter

import pytest
from originals import original_config

from minimax_nb.config import patch_config
from minimax_nb.original import original_config as text_01
from minimax_nb.planner import capacity, layers, placement
from minimax_nb.planner.capacity import GB, Capacity

TEXT_01 = patch_config(text_01())


def without_ours(monkeypatch, call):
    """What `call` gives where Transformers alone decides."""
    with monkeypatch.context() as without:
        without.setattr(placement, "_balanced", lambda *_: None)
        capacity._layout.cache_clear()
        found = call()
        capacity._layout.cache_clear()
    return found


@pytest.mark.parametrize("gpus, memory, dtype", [
    (8, 80, "int8"), (8, 141, "bf16"), (4, 141, "int8"), (8, 192, "bf16"), (7, 80, "int8"), (8, 120, "bf16"),
])  # fmt: skip
def test_our_cut_is_never_worse_than_that_of_transformers(gpus, memory, dtype, monkeypatch):
    ours = Capacity(TEXT_01, gpus, memory * GB, dtype)
    theirs = without_ours(monkeypatch, ours.other)
    assert sum(gpu.layers for gpu in ours.layout.gpus) == 80
    assert ours.layout.fits >= theirs.layout.fits
    assert ours.longest_context(1) >= theirs.longest_context(1)
    if (gpus, memory) in ((8, 80), (8, 141)):
        assert ours.longest_context(1) > 1.4 * theirs.longest_context(1)
        assert max(gpu.layers for gpu in ours.layout.gpus if gpu.softmax > 1) <= 10


@pytest.mark.parametrize("free", [[141] * 8, [150, 90, 150, 150, 20, 150, 150, 150]])
def test_every_layer_has_a_gpu_and_the_ends_lie_with_their_neighbours(free):
    """The embedding and the rotation with the first layer, the norm and the head with the last."""
    model = placement.skeleton(TEXT_01)
    placed = placement.place(model, {i: size * GB for i, size in enumerate(free)} | {"cpu": 10**12})
    order = [placed[f"model.layers.{i}"] for i in range(80)]
    assert order == sorted(order) and set(placed) == {*placement.ENDS, *(f"model.layers.{i}" for i in range(80))}
    embedding, norm, rotation, head = (placed[name] for name in placement.ENDS)
    assert embedding == rotation == order[0] and norm == head == order[-1]
    held = Counter()
    for name, gpu in placed.items():
        held[gpu] += sum(weight.nbytes for weight in model.get_submodule(name).parameters())
    assert len(held) >= len(free) - 1 and all(size < free[gpu] * GB for gpu, size in held.items())


def test_what_transformers_still_decides(monkeypatch):
    """A single GPU, GPUs that are too small, another device_map, and a model whose ends are tied."""
    config = patch_config(original_config(tie_word_embeddings=False))
    model, tied = (placement.skeleton(config | {"tie_word_embeddings": tied}) for tied in (False, True))
    need = placement._bytes(model)
    ours = placement.place(model, {0: need, 1: need, "cpu": 10**12})
    assert ours != without_ours(monkeypatch, lambda: placement.place(model, {0: need, 1: need, "cpu": 10**12}))
    for of, memory, device_map in (
        (model, {0: 2 * need}, "auto"),
        (model, {0: need // 2, 1: need // 4}, "auto"),
        (model, {0: need, 1: need}, "balanced"),
        (tied, {0: need, 1: need}, "auto"),
    ):
        given = of, memory | {"cpu": 10**12}, device_map
        assert placement.place(*given) == without_ours(monkeypatch, lambda given=given: placement.place(*given))


def test_the_cut_is_the_best_of_all():
    """Of small cases every cut is tried: none has room for more tokens, or at that length leaves more to spare."""
    rng, longest, unit = random.Random(0), 40, layers.EXACT
    refused = 0
    for _ in range(60):
        count, gpus = rng.randint(3, 7), rng.randint(2, 4)
        weights = [rng.randint(1, 9) * unit for _ in range(count)]
        keys = [rng.choice([0, 0, unit]) for _ in range(count)]
        free = [rng.randint(2, 40) * unit for _ in range(gpus)]
        cuts = list(itertools.combinations_with_replacement(range(gpus), count))
        room = {cut: room_of(cut, weights, keys, free, longest) for cut in cuts}
        best, found = max(room.values()), layers.cut(weights, keys, free, longest, beside=0)
        refused += found is None
        assert (best < 0) == (found is None)
        if found is not None:
            assert room[tuple(found)] == best
            most = max(spare_of(cut, weights, keys, free, best) for cut in cuts)
            assert spare_of(found, weights, keys, free, best) == most
    assert 0 < refused < 30


def room_of(cut, weights, keys, free, longest: int) -> int:
    fit = [tokens for tokens in range(longest + 1) if spare_of(cut, weights, keys, free, tokens) >= 0]
    return max(fit, default=-1)


def spare_of(cut, weights, keys, free, tokens: int) -> int:
    """Of the fullest GPU that holds anything."""
    held = Counter()
    for gpu, weight, each in zip(cut, weights, keys, strict=True):
        held[gpu] += weight + tokens * each
    return min(free[gpu] - size for gpu, size in held.items())
