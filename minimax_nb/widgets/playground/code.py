"""A conversation of the playground as a cell without widgets, which says the same when it is run.

    as_code("_work/demo", "a system prompt", [("How do I make pesto?", {"do_sample": False}, None)])

A seed draws the same tokens again on the same machine. Another one may round differently.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from ...language import tr

START = """\
from minimax_nb.chat import Chat
from minimax_nb.loading import load

model, tokenizer = load({folder}){note}
chat = Chat(model, tokenizer{system})
"""
SEEDED = "generator=torch.Generator(model.device).manual_seed({seed}), "


def as_code(folder: str, system: str | None, turns: Iterable[tuple[str, dict, int | None]]) -> str:
    """The cell. A turn is a message, what `generate` was given, and the seed, None where nothing was drawn."""
    known = Path(folder).is_dir() and folder != ""
    path = json.dumps(_near(folder) if known else "a-converted-folder")
    given = "" if system is None else f", system={_quoted(system)}"
    parts, last = [START.format(folder=path, note="" if known else f"  # {tr('yours')}", system=given)], None
    for text, settings, seed in turns:
        if settings != last:
            parts.append(_settings(settings))
        draw, last = "" if seed is None else SEEDED.format(seed=seed), settings
        parts.append(f"print(chat.send({_quoted(text)}, {draw}**settings))\n")
    code = "".join(parts)
    return f"import torch\n\n{code}" if "torch." in code else code


def _settings(settings: dict) -> str:
    return "\nsettings = {\n" + "".join(f'    "{name}": {value!r},\n' for name, value in settings.items()) + "}\n"


def _near(folder: str) -> str:
    """A folder inside the working one as a relative path, so that the cell can move with it; others as given."""
    here, path = Path.cwd(), Path(folder)
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # what JSON escapes, Python reads alike
