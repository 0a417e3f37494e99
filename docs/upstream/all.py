"""Run every reproduction in this folder on the Transformers that is installed: which traps remain?

    python docs/upstream/all.py [--json FILE]       # needs torch and transformers; a minute at most

Prints a table in markdown. Exit code 0 if every trap is absent, 1 if one remains or its script no longer runs.
"""

import argparse
import importlib
import json
import platform
import sys
from datetime import date
from pathlib import Path

TRAPS = (
    "partial_rope",
    "cache_length",
    "beams",
    "bf16_state",
    "half_renamed",
    "cached_turn",
    "slopes",
    "pre_tokenizer",
)


def run(name: str) -> dict:
    """One trap's state ("remains", "absent" or "does not run: ...") and its figures, numbers or names of errors."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        script = importlib.import_module(name)
        figures = script.figures()
    except (Exception, SystemExit) as problem:  # whatever another Transformers raises there, the other traps still run
        return {"state": f"does not run: {type(problem).__name__}: {problem}", "figures": {}}
    finally:
        sys.path.pop(0)
    wrong = [name for name, value in figures.items() if isinstance(value, str) or value > script.RIGHT]
    return {"state": "remains" if wrong else "absent", "figures": figures}


def table(traps: dict[str, dict]) -> str:
    """A row for each figure; trap and state stand in the first row of each trap."""
    lines = ["| trap | state | figure | value |", "|---|---|---|---|"]
    for name, trap in traps.items():
        head = f"| {name} | {trap['state']} |"
        for figure, value in (trap["figures"] or {"": ""}).items():
            lines.append(f"{head} {figure} | {text(value)} |")
            head = "| | |"
    return "\n".join(lines)


def text(value: float | str) -> str:
    """A figure in two digits, or the name of what was raised."""
    return value if isinstance(value, str) else f"{value:.2g}"


def result(traps: dict[str, dict]) -> dict:
    """What --json writes."""
    import torch
    import transformers

    return {
        "what": "the traps of docs/upstream.md, random small models",
        "device": f"CPU ({platform.machine()}), one thread",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
        },
        "date": date.today().isoformat(),
        "command": "python docs/upstream/all.py --json FILE",
        "traps": traps,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()

    import torch
    from transformers import __version__, logging

    torch.set_num_threads(1)  # on matrices this small, a second thread only waits for the first
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    traps = {name: run(name) for name in TRAPS}
    print(f"Transformers {__version__}\n\n{table(traps)}\n")
    for state in ("remains", "absent"):
        print(f"{state}: {', '.join(name for name in TRAPS if traps[name]['state'] == state) or 'none'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result(traps), indent=1) + "\n", encoding="utf-8")
    return int(any(trap["state"] != "absent" for trap in traps.values()))


if __name__ == "__main__":
    sys.exit(main())
