"""The file of a benchmark: what was measured, on what, with which versions, by which command; saved after every row.

results = Results(Path("bench.json"), command="minimax-nb bench")
results.add("rows", {"status": "ok", "ms": 1.2})
"""

import json
import os
import platform
from datetime import date
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..hardware import GB, _driver, _version, flash_attention_status
from ..loading import SHORT

PACKAGES = ("torch", "transformers", "flash-attn", "flash-linear-attention", "triton")


class Results:
    """A dict of what was found, and its file, which is replaced as a whole whenever something is added."""

    def __init__(self, path: Path | None, command: str):
        if path and not path.absolute().parent.is_dir():
            raise CheckpointError(f"{path.parent} is not a folder: name a file in one that exists")
        self.path = path
        gpu = torch.cuda.is_available()
        device = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
        self.found = {"command": command, "date": str(date.today()), "device": device}
        if gpu:
            self.found |= {"gpus": torch.cuda.device_count(), "memory_gb": round(torch.cuda.mem_get_info()[1] / GB, 1)}
        self.found |= {
            "versions": versions(),
            "flash_attention": flash_attention_status()._asdict(),
            "complete": False,
            "rates": {},
            "errors": [],
            "rows": [],
        }
        self.save()

    def save(self) -> None:
        if self.path is None:
            return
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(json.dumps(self.found, indent=1) + "\n")
        os.replace(partial, self.path)

    def add(self, name: str, row: dict) -> dict:
        self.found[name].append(row)
        self.save()
        return row


def versions() -> dict[str, str]:
    """Of Python, the driver, and what computes; what is not there is left out."""
    found = {"python": platform.python_version(), "driver": _driver()} | {name: _version(name) for name in PACKAGES}
    return {name: version for name, version in found.items() if version}


def described(row: dict) -> str:
    """A row as a line of text."""
    names = f"{row['attention']:18}{row['lightning']:7}{SHORT.get(row['dtype'], row['dtype']):6}"
    if row["status"] == "not run":
        return f"{names}not run: {row['why']}"
    size = f"{row['what']:8}{row['length']:>8} x {row['batch']:<4}"
    if row["status"] != "ok":
        return f"{size}{names}{row['status']} ({row['why']})"
    memory = f", {row['peak_gb']:.1f} GB" if "peak_gb" in row else ""
    spread = f"({row['least_ms']:.2f} to {row['most_ms']:.2f})"
    return f"{size}{names}{row['ms']:10.2f} ms {spread}, floor {row['floor_ms']:.2f}{memory}"
