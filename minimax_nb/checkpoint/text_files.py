"""The small text files beside the weights: tokenizer, chat template, generation defaults.

The original has no pad token and no eos id in its configs, so batches and `generate` fail; its chat template cannot
read plain strings (chat_templates.py), and the class that it names for its tokenizer reads tokenizer.json wrong
(tokenizer_check.py). `convert_tokenizer` returns the files of the converted folder as a dict from name to bytes; it
writes nothing and copies no code.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from ..keys import refuse_code_keys
from ..terminal import quiet_transformers
from ..values import token_id
from .chat_templates import each_template, prefix_template
from .files import read_json
from .tokenizer_check import KEEPS_THE_FILE

COPIED = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
END = "<end_of_sentence>"


def convert_tokenizer(src: Path, config: dict) -> dict[str, bytes]:
    """File name -> contents. Without a tokenizer in `src`, only generation_config.json, from the ids in `config`."""
    with well_formed(src):
        return _convert(src, config)


@contextmanager
def well_formed(src: Path) -> Iterator[None]:
    """For reading the text files of `src`: a value of an unexpected kind is a CheckpointError."""
    try:
        yield
    except (ConfigError, CheckpointError):
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{src}: the tokenizer files are not as expected ({error!r}): download them again"
        ) from None


def _convert(src: Path, config: dict) -> dict[str, bytes]:
    files = {name: (src / name).read_bytes() for name in COPIED if (src / name).is_file()}
    vocabulary = any(name in files for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))
    ids = {key: config[key] for key in ("eos_token_id", "pad_token_id") if config.get(key) is not None}
    if vocabulary:
        special = _optional(src / "special_tokens_map.json")
        settings = _optional(src / "tokenizer_config.json")
        eos = _text(settings.get("eos_token") or special.get("eos_token")) or END
        pad = _text(settings.get("pad_token") or special.get("pad_token")) or eos
        for key, token in (("eos_token_id", eos), ("pad_token_id", pad)):
            ids[key] = _token_id(src, settings, token, config["vocab_size"])
        settings |= {"eos_token": eos, "pad_token": pad, "padding_side": "left"}
        if "tokenizer.json" in files:
            settings["tokenizer_class"] = KEEPS_THE_FILE
        settings.pop("auto_map", None)
        if "chat_template" in settings:
            settings["chat_template"] = each_template(settings["chat_template"], prefix_template)
        files["tokenizer_config.json"] = to_json(settings)
        if special:
            files["special_tokens_map.json"] = to_json(special | {"pad_token": pad})
        for path in template_files(src):
            template = prefix_template(path.read_bytes().decode("utf-8"))
            files[path.relative_to(src).as_posix()] = template.encode()
    generation = _optional(src / "generation_config.json")
    if generation or ids:
        own = {key: value for key, value in generation.items() if value is not None}
        settings = {"_from_model_config": False} | ids | own
        _check_generation(src / "generation_config.json", settings, config["vocab_size"])
        files["generation_config.json"] = to_json(settings)
    return files


def to_json(value: dict) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _check_generation(path: Path, settings: dict, vocab_size: int) -> None:
    """Refuse what Transformers would refuse, only after all weights are loaded."""
    from transformers import GenerationConfig

    try:
        refuse_code_keys(settings)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            ids = settings.get(key)
            for one in ids if isinstance(ids, list) else [] if ids is None else [ids]:
                token_id(key, one, vocab_size)
        with quiet_transformers():
            GenerationConfig.from_dict(settings).validate()
    except Exception as error:  # its validators raise several types
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}: correct the value, or delete it") from None


def template_files(src: Path) -> list[Path]:
    """The default chat template, and others by name, as Transformers stores them."""
    paths = [src / "chat_template.jinja", *sorted((src / "additional_chat_templates").glob("*.jinja"))]
    return [path for path in paths if path.is_file()]


def _token_id(src: Path, settings: dict, token: str, vocab_size: int) -> int:
    """The id of a token, from whichever file lists it."""
    tokenizer = _optional(src / "tokenizer.json")
    ids = {entry["content"]: int(at) for at, entry in settings.get("added_tokens_decoder", {}).items()}
    ids |= _optional(src / "vocab.json") | _optional(src / "added_tokens.json")
    vocabulary = tokenizer.get("model", {}).get("vocab")
    ids |= vocabulary if isinstance(vocabulary, dict) else {}
    ids |= {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens", [])}
    if token not in ids:
        raise CheckpointError(f"{src}: no tokenizer file gives an id for {token}: correct eos_token or pad_token")
    if ids[token] >= vocab_size:
        raise CheckpointError(
            f"{src}: the tokenizer gives {token} id {ids[token]}, vocab_size is {vocab_size}: not a pair"
        )
    return ids[token]


def _optional(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def _text(token) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
