"""What every test runs under, subprocesses and notebook kernels included: one thread, and no model hub."""

import os
import sys
from pathlib import Path

import pytest

# Models this small gain nothing from a second thread, and two torch processes that share two cores, each with a
# thread for every core, wait for one another: tests took 20 times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A make that a test starts is not a part of the one that started the tests: as a part it would take over its options,
# and could print which folder it enters among the lines that the test reads.
# A reader's own language is not the tests': they say what they speak.
for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MINIMAX_NB_LANGUAGE"):
    os.environ.pop(name, None)

LONGEST = ("08_finetuning", "test_notebooks_in_lab", "test_exercises", "test_app")


def pytest_collection_modifyitems(items):
    """The longest files come first. Begun last, one would keep a process busy while the other has nothing to do.

    xdist would begin with those of the most tests, without --no-loadscope-reorder.
    """
    items.sort(key=lambda item: next((at for at, name in enumerate(LONGEST) if item.path.stem == name), len(LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file is a process's own. The two languages of a notebook write to the same `_work`, so they count as one."""
    from xdist.scheduler import LoadFileScheduling

    class ByNotebook(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return super()._split_scope(nodeid).replace("notebooks/zh/", "notebooks/")

    return ByNotebook(config, log)


def process_wide() -> dict:
    """What a call could leave changed for the whole process. Only of modules already imported, so it costs nothing."""
    seen = {"working directory": Path.cwd(), "HOME": os.environ.get("HOME")}
    if torch := sys.modules.get("torch"):
        seen |= {"default dtype": torch.get_default_dtype(), "gradients": torch.is_grad_enabled()}
        seen["threads"] = torch.get_num_threads()
    if logging := sys.modules.get("transformers.utils.logging"):
        seen["Transformers' verbosity"] = logging.get_verbosity()
        seen["Transformers' progress bars"] = logging.is_progress_bar_enabled()
    if language := sys.modules.get("minimax_nb.language"):
        seen["language"] = language.current()
    return seen


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """A setting that a test leaves changed fails here, and not in a later test that cannot know why."""
    before = process_wide()
    yield
    after = process_wide()
    changed = {name: (was, after[name]) for name, was in before.items() if after[name] != was}
    assert not changed, f"left changed for the tests that follow: {changed}"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(model, tokenizer) of a small random checkpoint that can chat: 5 layers, the fourth softmax."""
    import tiny_tokenizer
    from originals import original_config, original_weights, write_original

    from minimax_nb.checkpoint import patch_checkpoint
    from minimax_nb.loading import load

    folder = tmp_path_factory.mktemp("chat")
    config = original_config(vocab_size=tiny_tokenizer.VOCABULARY, num_hidden_layers=5, attn_type_list=[0, 0, 0, 1, 0])
    source = write_original(folder / "original", config, original_weights(config))
    tiny_tokenizer.write_tokenizer(source)
    return load(patch_checkpoint(source, folder / "converted"))


@pytest.fixture(scope="module")
def demo_model(tmp_path_factory):
    """(model, tokenizer) of the demo that ships."""
    from minimax_nb.checkpoint import patch_checkpoint
    from minimax_nb.demo import demo_checkpoint
    from minimax_nb.loading import load

    return load(patch_checkpoint(demo_checkpoint(), tmp_path_factory.mktemp("demo") / "converted"))
