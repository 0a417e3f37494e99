"""Peak memory and bytes written when one hybrid period at real width, 96 GB of bf16, is converted by links.

The original folder is sparse: right headers, right sizes, no data on disk, so 96 GB cost some megabytes and
reading gives zeros. What is measured, memory and bytes written, does not depend on the values. Prints one
JSON object.

    python benchmarks/convert_sparse.py [WORKDIR]
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minimax_nb.checkpoint.folder import INDEX, expected_shapes  # noqa: E402
from minimax_nb.config import patch_config  # noqa: E402
from minimax_nb.original import original_config  # noqa: E402

SHARDS, LAYERS = 40, 8


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as place:
        src, dst = Path(place) / "original", Path(place) / "converted"
        apparent = write_sparse(src)
        start = time.perf_counter()
        command = [sys.executable, "-m", "minimax_nb.cli", "patch", str(src), str(dst)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)})
        seconds = time.perf_counter() - start
        written = sum(path.stat().st_size for path in dst.iterdir() if not path.is_symlink())
        result = {
            "source_bytes": apparent,
            "source_bytes_on_disk": sum(path.stat().st_blocks * 512 for path in src.iterdir()),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
            "bytes_written": written,
            "links": sum(path.is_symlink() for path in dst.iterdir()),
            "seconds": round(seconds, 1),
            "python": platform.python_version(),
        }
    print(json.dumps(result, indent=2))


def write_sparse(folder: Path) -> int:
    """An original folder of zeros that take no room; returns its apparent size in bytes."""
    folder.mkdir()
    config = original_config(num_hidden_layers=LAYERS)
    (folder / "config.json").write_text(json.dumps(config))
    shapes, weight_map, size = expected_shapes(patch_config(config)), {}, 0
    names = sorted(shapes)
    for i in range(SHARDS):
        file = folder / f"model-{i:05d}-of-{SHARDS:05d}.safetensors"  # counted from 0, as upstream does
        part = names[i * len(names) // SHARDS : (i + 1) * len(names) // SHARDS]
        size += write_header(file, {name: shapes[name] for name in part})
        weight_map |= dict.fromkeys(part, file.name)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))
    return size


def write_header(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2  # bf16
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return at


if __name__ == "__main__":
    main()
