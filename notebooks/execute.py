"""Execute notebooks in place, as they are committed: in order, from a fresh kernel, with nothing of a machine in them.

    python notebooks/execute.py                         # all of them, from anywhere
    python notebooks/execute.py 03 05                   # those whose names begin so
    python notebooks/execute.py 05 --to evidence/       # elsewhere, the originals left as they are

The Chinese notebook gets its outputs from the same run, its figures included. A notebook that fails is left as it was.
Times and widget views are dropped: they change with every run, and the view of a kernel that is gone shows an error.
"""

import argparse
import base64
import io
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from rich.progress import track
from translate import has_picture, picture_hash, sync
from translation.figures import CHINESE

HERE = Path(__file__).resolve().parent
STILL = "A widget, in JupyterLab: run this cell there."
STILL_PICTURE = r'<div data-mmnb-still="\w+">(.*)</div>'


def execute(path: Path, to: Path) -> None:
    """Write the executed copy of `path` to the folder `to`, and in place its Chinese counterpart as well."""
    notebook = nbformat.read(path, 4)
    both = f"import sys; sys.path.append({str(HERE)!r}); import translation.figures as f; f.show_both({path.name!r})"
    client = NotebookClient(
        notebook,
        timeout=1200,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(HERE)}},
        extra_arguments=[f"--IPKernelApp.exec_lines={both}"],
    )
    with client.setup_kernel():
        for number, cell in enumerate(track(notebook.cells, path.stem)):
            client.execute_cell(cell, number)
    pictures = {}
    for cell in notebook.cells:
        if "outputs" in cell:
            make_smaller(cell.outputs)
            cell.outputs, chinese = without_chinese(without_views(cell.outputs))
            pictures |= chinese
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    nbformat.write(notebook, to / path.name)
    if to == HERE:
        sync((path.name,), pictures)


def make_smaller(outputs: list) -> None:
    """Give figures a palette of 256 colours, which is all they use: a third of the bytes."""
    for data in [output.get("data", {}) for output in outputs]:
        for each in (data, data.get(CHINESE, {})):
            if "image/png" in each:
                drawn = Image.open(io.BytesIO(base64.b64decode(each["image/png"]))).convert("RGB")
                drawn.quantize(256, dither=Image.Dither.NONE).save(saved := io.BytesIO(), "PNG", optimize=True)
                each["image/png"] = base64.b64encode(saved.getvalue()).decode()


def without_chinese(outputs: list) -> tuple[list, dict[str, dict]]:
    """The English outputs, and the Chinese data of figures and stills by the hash of the English ones.

    A still comes as an output of its own, after the English one. What the package shows in English only stays so.
    """
    kept, pictures = [], {}
    for output in outputs:
        data = output.get("data", {})
        chinese = data.pop(CHINESE, None)
        output.get("metadata", {}).pop(CHINESE, None)
        if chinese and not has_picture(output):
            pictures[picture_hash(kept[-1])] = chinese
            continue
        kept.append(output)
        if has_picture(output):
            pictures[picture_hash(output)] = chinese or dict(data)
    return kept, pictures


def without_views(outputs: list) -> list:
    """Of a widget of this package only the still picture, which comes before its view; of others a line of text."""
    kept = []
    for output in outputs:
        data, before = output.get("data", {}), kept[-1].get("data", {}) if kept else {}
        if data.pop("application/vnd.jupyter.widget-view+json", None):
            if (still := re.fullmatch(STILL_PICTURE, before.get("text/html", ""), re.DOTALL)) is not None:
                before["text/html"] = still[1]
                continue
            data["text/plain"] = STILL
        kept.append(output)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="how the names begin; all without")
    parser.add_argument("--to", type=Path, default=HERE, help="folder of the executed copies; default: in place")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    for path in sorted(HERE.glob("*.ipynb")):
        if path.name.startswith(tuple(arguments.names) or ""):
            execute(path, arguments.to)


if __name__ == "__main__":
    main()
