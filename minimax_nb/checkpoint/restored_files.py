"""The small files of a restored folder: config.json, tokenizer, chat template, generation defaults.

`small_files` works them out from a converted folder, or from what `save_pretrained` wrote. Where MiniMax's own folder
is at hand, `own_files` takes its files as they are. Both return file name -> contents, and write nothing.
"""

from pathlib import Path

from ..config import MARKER, first_difference, patch_config, restore_config
from ..errors import ConfigError
from ..keys import says_which_code
from .chat_templates import each_template, without_prefix
from .files import read_json, readable
from .folder import INDEX, read_config
from .text_files import COPIED, template_files, to_json, well_formed
from .tokenizer_check import KEEPS_THE_FILE

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", INDEX)  # ends of names
NO_CODE = (
    "the original's code (*.py, auto_map) and its tokenizer_class are not known here: vLLM with --trust-remote-code "
    "wants the code, llama.cpp does not. --original ORIGINAL takes them from the original folder"
)
# What Transformers 5 adds when it saves a tokenizer, and MiniMax's files do not have.
ADDED = ("backend", "is_local", "local_files_only", "model_max_length")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def small_files(src: Path, config: dict) -> tuple[dict[str, bytes], list[str]]:
    """The files, and a line on each thing that cannot be known from `src`, whose config.json is `config`."""
    with well_formed(src):
        files = _text_files(src) | {"config.json": to_json(_config(config))}
    notes = [NO_CODE]
    if not any(name in files for name in VOCABULARIES):
        notes.append(f"{src} has no tokenizer, so there is none in the new folder: save it there, or give --original")
    return files, notes


def own_files(original: Path, config: dict) -> dict[str, bytes]:
    """All small files of MiniMax's folder, code included. Raises ConfigError where it is of another model."""
    theirs = read_config(original)
    try:
        differs = first_difference(restore_config(config), restore_config(patch_config(theirs)))
    except ConfigError as error:
        raise ConfigError(f"{original / 'config.json'}: {error}") from None
    if differs:
        key, ours, there = differs
        raise ConfigError(f"{original / 'config.json'}: {key} is {there}, in the model it is {ours}: not its original")
    paths = [path for path in sorted(original.iterdir()) if path.is_file() and not path.name.startswith(".")]
    paths += template_files(original)
    files = {}
    for path in paths:
        if not path.name.endswith(WEIGHTS):
            with readable(path):
                files[path.relative_to(original).as_posix()] = path.read_bytes()
    return files


def _text_files(src: Path) -> dict[str, bytes]:
    files = {name: (src / name).read_bytes() for name in COPIED if (src / name).is_file()}
    if (src / "tokenizer_config.json").is_file():
        settings = _tokenizer_config(read_json(src / "tokenizer_config.json"), "tokenizer.json" in files)
        files["tokenizer_config.json"] = to_json(settings)
    if "special_tokens_map.json" in files:
        files["special_tokens_map.json"] = to_json(_without_pad(read_json(src / "special_tokens_map.json")))
    for path in template_files(src):
        files[path.relative_to(src).as_posix()] = without_prefix(path.read_bytes().decode("utf-8")).encode()
    if (src / "generation_config.json").is_file():
        generation = read_json(src / "generation_config.json")
        own = {key: generation[key] for key in generation if key not in ("_from_model_config", "transformers_version")}
        files["generation_config.json"] = to_json(_without_pad(own, "pad_token_id", "eos_token_id"))
    return files


def _config(config: dict) -> dict:
    """The original's config.json for a converted one, without what `save_pretrained` added to it."""
    restored = restore_config(config)
    if "transformers_version" in restored:  # a model was saved: its class writes its defaults too
        added = {"transformers_version": restored["transformers_version"], "block_size": 256, "pad_token_id": None}
        restored = {key: value for key, value in restored.items() if key not in added or value != added[key]}
        if "dtype" in restored:
            restored["torch_dtype"] = restored.pop("dtype")  # its name up to Transformers 4
    dropped = config[MARKER].get("dropped")
    dropped = dropped if isinstance(dropped, dict) else {}
    restored |= {key: value for key, value in dropped.items() if key not in restored and not says_which_code(key)}
    return dict(sorted(restored.items()))


def _tokenizer_config(settings: dict, has_file: bool) -> dict:
    """Without the pad token and side that the conversion chose, and without what only Transformers 5 knows."""
    settings = {key: value for key, value in settings.items() if key not in (*ADDED, "auto_map")}
    if has_file:
        settings["tokenizer_class"] = KEEPS_THE_FILE
    if settings.get("padding_side") == "left":
        del settings["padding_side"]
    if "chat_template" in settings:
        settings["chat_template"] = each_template(settings["chat_template"], without_prefix)
    return _without_pad(settings)


def _without_pad(settings: dict, pad: str = "pad_token", eos: str = "eos_token") -> dict:
    """Without a pad token that is the end token, as the conversion sets it."""
    same = settings.get(pad) is not None and settings[pad] == settings.get(eos)
    return {key: value for key, value in settings.items() if not (same and key == pad)}
