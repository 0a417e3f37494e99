"""Any tool that loads models by name, started so that each converted MiniMax folder it loads computes right.

    python -m minimax_nb.run -m lm_eval --model hf --model_args pretrained=work/demo --tasks ...
    python -m minimax_nb.run transformers serve
    python -m minimax_nb.run train.py

Such a tool calls `from_pretrained` itself and knows nothing of `load()`. So padded batches, second turns and
beams go wrong in it, because Transformers' cache does not know its length. Here the cache is repaired before the
tool begins. Every native MiniMax model that it loads in this process gets what `load()` gives it: our lightning
attention, static decoding and, on a GPU, our kernels and our choice of PyTorch's attention. A line on stderr says so.
A MiniMax folder that was not converted is refused before its weights are read. Processes that the tool starts are its
own: they are not repaired.
"""

import functools
import importlib.metadata
import importlib.util
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from .checkpoint.int8 import TORCHAO, has_int8_experts
from .config import MARKER, read_marker
from .errors import MISTAKES, ConfigError, UsageMistake
from .keys import ORIGINAL_TYPES
from .lazy import installed

USAGE = "python -m minimax_nb.run [-m MODULE | COMMAND | FILE.py] ARGUMENTS..."


def main(arguments: list[str] | None = None) -> int:
    """Run the tool in this process, as if it had been started itself. Returns 2 for a mistake of the user."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        start = _how_to_start(arguments)
        repair_what_is_loaded()
        start()
    except MISTAKES as mistake:
        print("minimax_nb.run:", " ".join(str(mistake).split()), file=sys.stderr)
        return 2
    return 0


def repair_what_is_loaded() -> None:
    """From now on `from_pretrained` gives repaired MiniMax models and refuses folders that were not converted.

    It holds for this process. Calling it twice is fine.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.minimax.modeling_minimax import MiniMaxPreTrainedModel

    from .cache import repair_cache
    from .generation import explain_generate

    repair_cache()
    explain_generate()
    for cls in (AutoConfig, AutoTokenizer):
        _wrap(cls, before=_refuse_original)
    _wrap(MiniMaxPreTrainedModel, before=_refuse_unconverted, after=_repair)


def _wrap(cls: type, before: Callable, after: Callable | None = None) -> None:
    """Let `from_pretrained` of a class call `before(name, kwargs)`, and `after(model, kwargs)` with what it gives."""
    stock = cls.from_pretrained.__func__
    if getattr(stock, "by_minimax_nb", False):
        return

    @functools.wraps(stock)
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        before(pretrained_model_name_or_path, kwargs)
        loaded = stock(cls, pretrained_model_name_or_path, *args, **kwargs)
        if after:
            after(loaded[0] if isinstance(loaded, tuple) else loaded, kwargs)  # a pair with output_loading_info
        return loaded

    from_pretrained.by_minimax_nb = True
    cls.from_pretrained = classmethod(from_pretrained)


def _refuse_original(name, kwargs: dict) -> None:
    """ConfigError for a folder in MiniMax's own format, which Transformers would ask to run code for."""
    try:
        model_type = json.loads((Path(name) / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, TypeError):
        return  # a name on the hub, or a broken file: not for us to say
    if model_type in ORIGINAL_TYPES:
        raise _not_converted(name)


def _refuse_unconverted(name, kwargs: dict) -> None:
    """ConfigError for a native MiniMax model without our marker, before its weights are read."""
    from transformers import AutoConfig, PreTrainedConfig

    config = kwargs.get("config")
    if not isinstance(config, PreTrainedConfig):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    try:
        read_marker({MARKER: getattr(config, MARKER, None)})
    except ConfigError as error:
        raise _not_converted(name) from error
    if has_int8_experts(config.to_dict()) and not installed("torchao"):
        raise UsageMistake(TORCHAO)


def _not_converted(name) -> ConfigError:
    from .checkpoint.folder import how_to_convert

    wrong = f"{name} was not converted, so Transformers would compute it wrong"
    if not Path(name).is_dir():
        return ConfigError(f"{wrong}. Download it, convert it with minimax-nb patch, and give the converted folder")
    return ConfigError(f"{wrong}. {how_to_convert(Path(name))}, and give the converted folder")


def _repair(model, kwargs: dict) -> None:
    """Let a model compute as after `load()`. RuntimeError if another Transformers fails the self-test."""
    from transformers import MiniMaxForCausalLM

    from . import experts
    from .attention import register
    from .experts.held import has_int8
    from .lightning.layer import rebuild_decays, use_lightning
    from .loading import self_test, use_fast_paths

    rebuild_decays(model)
    if int8 := has_int8(model):
        model.set_experts_implementation(experts.register())  # Transformers' default has no int8
    backend = use_lightning(model)
    on_gpu = model.device.type == "cuda"
    if kwargs.get("attn_implementation") is None and on_gpu:
        model.set_attn_implementation(register())
    attention = model.config._attn_implementation
    _, note = self_test(attention, backend, model.device.type, str(model.dtype).removeprefix("torch."))
    how = f"{backend} lightning attention, {attention}{', int8 experts' if int8 else ''}"
    if type(model) is MiniMaxForCausalLM:  # other heads do not generate
        how += use_fast_paths(model, on_gpu)[1]
    print(f"minimax_nb.run: {how}, cache repaired{note}", file=sys.stderr)


def _how_to_start(arguments: list[str]) -> Callable[[], None]:
    """A function that runs the tool, with `sys.argv` and `sys.path` as the tool expects them."""
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        return _module(arguments[1], arguments[1:])
    if not arguments or arguments[0].startswith("-"):
        raise UsageMistake(f"which tool? {USAGE}")
    name = arguments[0]
    if Path(name).is_file():
        sys.argv, sys.path[0] = arguments, str(Path(name).resolve().parent)
        return lambda: runpy.run_path(name, run_name="__main__")
    found = list(importlib.metadata.entry_points(group="console_scripts", name=name))
    if found:
        sys.argv = arguments
        return lambda: sys.exit(found[0].load()())
    why = "it is a program, but no Python command" if shutil.which(name) else "it is not installed here"
    raise UsageMistake(f"{name} cannot be started, {why}: {USAGE}")


def _module(name: str, argv: list[str]) -> Callable[[], None]:
    try:
        found = importlib.util.find_spec(name)
        if found and found.submodule_search_locations:  # a package runs by its __main__
            found = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError:
        found = None
    if not found:
        raise UsageMistake(f"there is no module {name} that can be run here: {USAGE}")
    sys.argv = argv
    return lambda: runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.exit(main())
