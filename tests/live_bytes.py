"""How many bytes tensors hold while something runs, by torch's own operators: for memory that a test can repeat.

    with LiveBytes() as seen:
        model(ids)
    seen.peak       # bytes of tensors made inside, at the busiest moment

What an operator holds only inside itself is not seen.
"""

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """`live` and `peak`: bytes of tensors that were made inside, now and at most."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._before, self._made = {}, {}  # storages by address: those that came from outside are kept

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for storage in _storages((args, kwargs)):
            if storage._cdata not in self._made:
                self._before[storage._cdata] = storage
        results = function(*args, **kwargs or {})
        for key in [key for key, (storage, _) in self._made.items() if storage.expired()]:
            self.live -= self._made.pop(key)[1]
        for storage in _storages(results):
            if storage._cdata not in self._made and storage._cdata not in self._before:
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        return results


def _storages(tensors) -> list:
    return [x.untyped_storage() for x in tree_leaves(tensors) if isinstance(x, Tensor)]
