"""Any tool that loads models by name, started so that each converted MiniMax folder it loads computes right.

    python -m minimax_nb.run -m lm_eval --model hf --model_args pretrained=work/demo --tasks ...
    python -m minimax_nb.run transformers serve
    python -m minimax_nb.run train.py

Such a tool calls `from_pretrained` itself and knows nothing of `load()`. So padded batches, second turns and
beams go wrong in it, because Transformers' cache does not know its length. Here the cache is repaired before
the tool begins, and every native MiniMax model that it loads in this process gets our lightning attention
and, on a GPU, our choice of PyTorch's attention. A MiniMax folder that was not converted is refused.
Processes that the tool starts are its own: they are not repaired.
"""

import importlib.metadata
import runpy
import shutil
import sys
from pathlib import Path

from .config import MARKER
from .errors import MISTAKES, ConfigError, UsageMistake

USAGE = "python -m minimax_nb.run [-m MODULE | COMMAND | FILE.py] ARGUMENTS..."


def repair_what_is_loaded() -> None:
    """From now on `from_pretrained` of every native MiniMax class gives a repaired model. Calling it twice is fine."""
    from transformers.models.minimax.modeling_minimax import MiniMaxPreTrainedModel

    from .cache import repair_cache

    repair_cache()
    stock = MiniMaxPreTrainedModel.from_pretrained.__func__
    if getattr(stock, "repairs", False):
        return

    def from_pretrained(cls, *args, **kwargs):
        loaded = stock(cls, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info it is a pair
        repaired(model, chosen_attention=kwargs.get("attn_implementation"))
        return loaded

    from_pretrained.repairs = True
    MiniMaxPreTrainedModel.from_pretrained = classmethod(from_pretrained)


def repaired(model, chosen_attention: str | None = None):
    """The model, computing as after `load()`. ConfigError if its folder was not converted."""
    from .attention import register
    from .lightning import use_lightning

    marker = getattr(model.config, MARKER, None)
    if not isinstance(marker, dict) or marker.get("qk_rows") != "permuted":
        folder = model.config.name_or_path
        raise ConfigError(
            f"{folder} was not converted, so Transformers would compute it wrong: "
            f"minimax-nb patch {folder} {folder}-converted, then give that folder"
        )
    backend = use_lightning(model)
    if chosen_attention is None and model.device.type == "cuda":
        model.set_attn_implementation(register())
    attention = model.config._attn_implementation
    print(f"minimax_nb.run: {backend} lightning attention, {attention}, cache repaired", file=sys.stderr)
    return model


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


def _how_to_start(arguments: list[str]):
    """A function that runs the tool, with `sys.argv` as the tool expects it."""
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        sys.argv = arguments[1:]
        return lambda: runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    if not arguments or arguments[0].startswith("-"):
        raise UsageMistake(f"which tool? {USAGE}")
    sys.argv = arguments
    name = arguments[0]
    if Path(name).is_file():
        return lambda: runpy.run_path(name, run_name="__main__")
    found = importlib.metadata.entry_points(group="console_scripts", name=name)
    if found:
        (command,) = list(found)[:1]
        return lambda: sys.exit(command.load()())
    hint = "it is a program, but no Python command" if shutil.which(name) else "it is not installed here"
    raise UsageMistake(f"{name} cannot be started, {hint}: {USAGE}")


if __name__ == "__main__":
    sys.exit(main())
