"""One rank of `minimax-nb serve FOLDER --tp N`: rank 0 answers, and the others compute with it what it computes.

    python -m minimax_nb.serve.rank '{"folder": ..., ...}'      # parallel/launch.py starts it, N times

Each loads its part by `load(folder, tp=True)`. Rank 0 is the server of a single process, with a model whose calls the
others follow. So requests, the queue they wait in, sampling, stops and kept caches are its affair alone.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

from ..errors import UsageMistake
from ..language import speaking


def require(folder: Path, ranks: int, how: dict) -> None:
    """UsageMistake, ConfigError or CheckpointError for what so many ranks on this machine cannot serve."""
    import torch

    from ..checkpoint.folder import read_config, require_converted
    from ..dtypes import full_name
    from ..parallel.reading import QUANTISED, require_parts

    if how["offload"]:
        raise UsageMistake("--offload and --tp exclude each other: a rank holds its part on its own GPU")
    if how["dtype"] is not None:
        full_name(how["dtype"])
    folder = folder.expanduser()
    config = read_config(folder)
    require_converted(folder, config)
    if config.get("quantization_config"):
        raise UsageMistake(QUANTISED)
    require_parts(config, ranks, flag="--tp")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else ranks
    if ranks > gpus:
        raise UsageMistake(f"--tp {ranks} needs as many GPUs, and there are {gpus} here: give --tp {gpus} at most")


def main() -> None:
    from ..cli import logged
    from ..parallel.launch import reported

    settings = json.loads(sys.argv[1])
    with (
        reported(),
        logged(),
        speaking("en"),
        contextlib.redirect_stdout(sys.stderr if settings["as_json"] else sys.stdout),
    ):
        _work(**settings)


def _work(*, folder: str, how: dict, host: str, port: int, **served) -> None:
    from ..parallel.launch import fail
    from ..parallel.leading import follow, lead
    from .command import KEY, answer, bound, loaded

    how = {"dtype": how["dtype"], "experts": how["experts"], "tp": True}
    if os.environ["RANK"] != "0":
        return follow(loaded(Path(folder), how)[0])
    with bound(host, port) as listener:
        model, tokenizer = loaded(Path(folder), how)
        end = lead(model, lost=fail)
        if answer(listener, model, tokenizer, key=os.environ.get(KEY), **served):
            sys.stdout.flush()
            os._exit(1)  # the launcher ends the others, which wait within the same forward pass
        end()


if __name__ == "__main__":
    main()
