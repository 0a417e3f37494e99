"""Transformers' own tests for MiniMax, run on what this kit makes of the model. By hand, outside `make test`.

    python tests/upstream_suite.py CHECKOUT torch           # use_lightning("torch") and repair_cache()
    python tests/upstream_suite.py CHECKOUT cache           # repair_cache() alone
    python tests/upstream_suite.py CHECKOUT stock           # what fails there is not ours

CHECKOUT is a clone of huggingface/transformers at the tag of the installed version; its tests need `pip install
parameterized pytest-xdist`. The real model's layer 0 is lightning, theirs is softmax, so the order is turned round.
More arguments go to pytest: `-k padding`, `-x`. Slow tests are left out, as Transformers does by itself.
"""

import functools
import os
import sys

import pytest

TESTS = "tests/models/minimax/test_modeling_minimax.py"


class Switched:
    """A pytest plugin: each MiniMax model that is built or loaded is switched as `load` would."""

    def __init__(self, backend: str):
        self.backend, self.loading = backend, 0

    def pytest_collection_modifyitems(self, items):
        for tester in {item.module.MiniMaxModelTester for item in items}:
            tester.__init__ = self.lightning_first(tester.__init__)

    def pytest_configure(self, config):
        from transformers.models.minimax import modeling_minimax as modeling

        from minimax_nb.cache import repair_cache

        if self.backend == "stock":
            return
        repair_cache()
        if self.backend == "cache":
            return
        base = modeling.MiniMaxPreTrainedModel
        base.from_pretrained = classmethod(self.switched_after(base.from_pretrained.__func__))
        modeling.MiniMaxModel.__init__ = self.switched_after(modeling.MiniMaxModel.__init__)

    def lightning_first(self, init):
        @functools.wraps(init)
        def build(tester, *args, **kwargs):
            init(tester, *args, **kwargs)
            kinds = "linear_attention", "full_attention"
            tester.num_hidden_layers = 3  # the last is lightning again, as some of the tests take for granted
            tester.layer_types = [kinds[layer % 2] for layer in range(tester.num_hidden_layers)]

        return build

    def switched_after(self, make):
        """A model is switched when it is whole: after from_pretrained, not while that builds it."""
        from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

        from minimax_nb.lightning import use_lightning

        @functools.wraps(make)
        def switched(model, *args, **kwargs):
            self.loading += make.__name__ == "from_pretrained"
            try:
                made = make(model, *args, **kwargs)
            finally:
                self.loading -= make.__name__ == "from_pretrained"
            whole = model if made is None else made[0] if isinstance(made, tuple) else made
            if not self.loading and any(isinstance(part, MiniMaxLightningAttention) for part in whole.modules()):
                use_lightning(whole, self.backend)
            return made

        return switched


if __name__ == "__main__":
    if len(sys.argv) < 3 or not os.path.isfile(os.path.join(sys.argv[1], TESTS)):
        sys.exit("usage: python tests/upstream_suite.py CHECKOUT stock|cache|torch|fused [arguments of pytest]")
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:0] = [here, os.path.abspath(sys.argv[1])]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.chdir(sys.argv[1])
    sys.exit(pytest.main([TESTS, "-q", *sys.argv[3:]], plugins=[Switched(sys.argv[2])]))
