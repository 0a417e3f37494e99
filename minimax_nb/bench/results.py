"""The file of a benchmark: what was measured, on what, with which versions, by which command; saved after every row.

    with Results(Path("bench.json"), command="minimax-nb bench") as results:
        results.add("rows", {"status": "ok", "ms": 1.2})

A plain file is replaced as a whole, so a reader never meets half of one, and what a link leads to likewise. A
pipe or a device cannot be: it, and stdout for "-", are written once, at the end.
"""

import contextlib
import json
import os
import platform
import sys
from datetime import date
from pathlib import Path

import torch

from ..dtypes import short_name
from ..errors import UsageMistake
from ..hardware import GB, driver_version, flash_attention_status, package_version

PACKAGES = ("torch", "transformers", "flash-attn", "flash-linear-attention", "triton", "torchao")
STDOUT = Path("-")
HEADER = f"{'what':8}{'tokens':>8}   {'batch':6}{'attention':18}{'lightning':10}{'dtype':6}{'time':>13}"
HEADER += " (least to most), floor, peak of memory"


class Results:
    """A dict of what was found, and its file. UsageMistake for a folder, or for a place that is in none."""

    def __init__(self, path: Path | None, command: str):
        self.path = path if path in (None, STDOUT) else _place(path)
        self._whole = self.path not in (None, STDOUT) and (self.path.is_file() or not self.path.exists())
        gpu = torch.cuda.is_available()
        device = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
        self.found = {"command": command, "date": str(date.today()), "device": device}
        if gpu:
            memory = torch.cuda.mem_get_info()[1]
            self.found |= {"gpus": torch.cuda.device_count(), "memory_gb": round(memory / GB, 1)}
        self.found |= {
            "versions": versions(),
            "flash_attention": flash_attention_status()._asdict(),
            "complete": False,
        }
        self.save()

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *error) -> None:
        if self.path == STDOUT:
            sys.stdout.write(self._text())
        elif self.path and not self._whole:
            self.path.write_text(self._text())

    def save(self) -> None:
        """Replace the file by one that holds what was found up to now, if it is a plain file."""
        if not self._whole:
            return
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            partial.write_text(self._text())
            os.replace(partial, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise

    def add(self, name: str, row: dict) -> dict:
        """Append to the list of this name, and save."""
        self.found.setdefault(name, []).append(row)
        self.save()
        return row

    def _text(self) -> str:
        return json.dumps(self.found, indent=1) + "\n"


def _place(path: Path) -> Path:
    """Where a file of this name is, links followed."""
    place = Path(os.path.realpath(path.expanduser()))
    if place.is_dir():
        raise UsageMistake(f"{path} is a folder: name a file in it")
    if not place.parent.is_dir():
        raise UsageMistake(f"{place.parent} is not a folder: name a file in one that exists")
    return place


def versions() -> dict[str, str]:
    """Of Python, the driver, and what computes; what is not there is left out."""
    found = {"python": platform.python_version(), "driver": driver_version()}
    found |= {name: package_version(name) for name in PACKAGES}
    return {name: version for name, version in found.items() if version}


def row_line(row: dict) -> str:
    """A row as a line of text, below HEADER."""
    names = f"{row['attention']:18}{row['lightning']:10}{short_name(row['dtype']):6}"
    if row["status"] == "not run":
        return f"{'':25}{names}not run: {row['why']}"
    size = f"{row['what']:8}{row['length']:>8} x {row['batch']:<6}"
    if row["status"] != "ok":
        return f"{size}{names}{row['status']} ({row['why']})"
    memory = f", {row['peak_gb']:.1f} GB" if "peak_gb" in row else ""
    spread = f"({row['least_ms']:.2f} to {row['most_ms']:.2f})"
    return f"{size}{names}{row['ms']:10.2f} ms {spread}, floor {row['floor_ms']:.2f}{memory}"
