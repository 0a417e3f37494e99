"""The recorded figures, for tests of what pages say of them."""

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "notebooks" / "results"


def results(*names: str) -> list[dict]:
    """What these files of notebooks/results hold."""
    return [json.loads((RESULTS / f"{name}.json").read_text()) for name in names]


def row(rows: list[dict], **fields) -> dict:
    """The only row with these fields."""
    (found,) = [each for each in rows if fields.items() <= each.items()]
    return found
