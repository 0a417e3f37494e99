"""What stock Transformers computes wrong for MiniMax-Text-01, measured before and after each repair.

    PYTHONPATH=. python tests/traps.py   # a table in markdown, from one random checkpoint; half a minute on two cores

Every function takes a model and the original config and weights it came from, and returns a relative error in the
logits against the naive float64 forward pass. The tests call the same functions.
"""

import tempfile
from pathlib import Path

import torch
from originals import original_config, original_weights, relative_error, write_original, yardstick
from transformers import MiniMaxConfig, MiniMaxForCausalLM, logging
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from minimax_nb.cache import CACHE_ARGUMENT, repair_cache, stock_cache
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.lightning import use_lightning

STEPS = 4  # tokens decoded one by one after a prefill

RENAMED = {"attn_type_list": "layer_types"} | {
    f"layernorm_{long}_{factor}": f"{short}_{factor}_factor"
    for long, short in {"full_attention": "full_attn", "linear_attention": "linear_attn", "mlp": "mlp"}.items()
    for factor in ("alpha", "beta")
}


def renamed_config(config: dict) -> dict:
    """The native config that follows from renaming keys alone: full RoPE, whatever rotary_dim says."""
    native = {RENAMED.get(key, key): value for key, value in config.items() if key not in ("auto_map", "architectures")}
    kinds = ["full_attention" if kind else "linear_attention" for kind in config["attn_type_list"]]
    return native | {"model_type": "minimax", "layer_types": kinds}


def stock_model(folder: Path, config: MiniMaxConfig | None = None, attention: str = "sdpa") -> MiniMaxForCausalLM:
    """Stock Transformers' model of a folder in fp32, with another config if one is given."""
    more = {} if config is None else {"config": config}
    return MiniMaxForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation=attention, **more)


def random_model(config: MiniMaxConfig) -> MiniMaxForCausalLM:
    torch.manual_seed(0)
    return MiniMaxForCausalLM(config).eval()


def random_ids(*lengths: int, vocabulary: int = 128, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocabulary, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def prefill(model, config, weights, lengths=(40,)) -> float:
    """One row, no cache kept."""
    (row,) = random_ids(*lengths)
    return relative_error(model(torch.tensor([row])).logits[0], yardstick(config, weights, [row])[0])


@torch.no_grad()
def padded_batch(model, config, weights, lengths=(23, 11, 40), cache=None) -> tuple[float, float]:
    """Left-padded rows: the error of the prefill, and of the decoding steps, positions given as `generate` does."""
    rows = random_ids(*lengths)
    width = max(lengths)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache, logits, start = _given_or_new(cache), [], 0
    for end in range(width - STEPS, width + 1):
        step = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
        logits.append(model(ids[:, start:end], **kept(cache), **step).logits)
        start = end
    got, want = torch.cat(logits, 1), yardstick(config, weights, rows)
    before = [(got[i, width - len(row) : -STEPS], want[i][:-STEPS]) for i, row in enumerate(rows)]
    after = [(got[i, -STEPS:], want[i][-STEPS:]) for i in range(len(rows))]
    return tuple(max(relative_error(*pair) for pair in pairs) for pairs in (before, after))


@torch.no_grad()
def second_turn(model, config, weights, lengths=(40, 9), cache=None) -> float:
    """Two turns on one cache, no position_ids given: the error of the second."""
    cache, logits = _given_or_new(cache), None
    turns = random_ids(*lengths)
    for turn in turns:
        logits = model(torch.tensor([turn]), **kept(cache)).logits[0]
    return relative_error(logits, yardstick(config, weights, [sum(turns, [])])[0][-lengths[-1] :])


@torch.no_grad()
def token_by_token(model, config, weights, length=20) -> float:
    """A row fed one token at a time, no position_ids given: the error of the last half."""
    ones = [1] * (length // 2)
    turns, cache, logits = random_ids(length - len(ones), *ones), MiniMaxCache(), []
    for turn in turns:
        logits.append(model(torch.tensor([turn]), **kept(cache)).logits[0, -1])
    want = yardstick(config, weights, [sum(turns, [])])[0][-len(ones) :]
    return relative_error(torch.stack(logits[1:]), want)


@torch.no_grad()
def right_padded(model, config, weights, lengths=(20, 33)) -> float:
    """A batch padded on the right, then one more token a row: the error of that token in the padded row."""
    rows, cache, more = random_ids(*lengths), MiniMaxCache(), [[7], [9]]
    short, width = lengths[0], max(lengths)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    model(ids, attention_mask=mask, position_ids=_positions(mask), **kept(cache))
    mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    settings = {"attention_mask": mask, "position_ids": _positions(mask)[:, -1:]}
    got = model(torch.tensor(more), **settings, **kept(cache)).logits[0, -1]
    return relative_error(got, yardstick(config, weights, [rows[0][:short] + more[0]])[0][-1])


@torch.no_grad()
def pads_between(model, config, weights, lengths=(20, 10), pads=6) -> float:
    """Two messages of one row with pads between them, in one pass: the error of the second."""
    first, second = random_ids(*lengths)
    mask = torch.tensor([[1] * len(first) + [0] * pads + [1] * len(second)])
    ids = torch.tensor([first + [0] * pads + second])
    got = model(ids, attention_mask=mask, position_ids=_positions(mask)).logits[0, -len(second) :]
    return relative_error(got, yardstick(config, weights, [first + second])[0][-len(second) :])


@torch.no_grad()
def packed(model, config, weights, lengths=(20, 33)) -> float:
    """Two documents in one row, positions that restart, as Trainer packs them: the error of the second."""
    first, second = random_ids(*lengths)
    positions = torch.tensor([[*range(len(first)), *range(len(second))]])
    got = model(torch.tensor([first + second]), position_ids=positions, use_cache=False).logits[0, len(first) :]
    return relative_error(got, yardstick(config, weights, [second])[0])


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Of each token among the real ones of its row, as `generate` counts them."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def beams(model, config, weights, lengths=(12, 12)) -> float:
    """4-beam search with the cache against without: the error of the beams' scores, 1 if the tokens differ."""
    ids = torch.tensor(random_ids(*lengths))
    settings = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 8, "pad_token_id": 0}
    got, want = (
        model.generate(ids, use_cache=use, output_scores=True, return_dict_in_generate=True, **settings)
        for use in (True, False)
    )
    if got.sequences.tolist() != want.sequences.tolist():
        return 1.0
    return relative_error(got.sequences_scores, want.sequences_scores.double())


def kept(cache: MiniMaxCache) -> dict:
    """The arguments of a model that goes on with this cache, under the name of the installed version."""
    return {CACHE_ARGUMENT: cache, "use_cache": True}


def _given_or_new(cache: MiniMaxCache | None) -> MiniMaxCache:
    return MiniMaxCache() if cache is None else cache  # an empty cache is false


def measured(trap, *args) -> float | str:
    """A trap's error, or the name of what it raised."""
    try:
        error = trap(*args)
    except (RuntimeError, ValueError, IndexError) as problem:
        return type(problem).__name__
    return error if isinstance(error, float) else error[1]


def table(folder: Path) -> str:
    """The markdown table, with its checkpoints written under `folder`."""
    config = original_config()
    weights = original_weights(config)
    source = write_original(folder / "original", config, weights)
    converted = patch_checkpoint(source, folder / "converted")
    renamed = stock_model(source, MiniMaxConfig(**renamed_config(config)))
    models = {attention: stock_model(converted, attention=attention) for attention in ("sdpa", "eager")}

    before = measured(prefill, renamed, config, weights)
    lines = [("only renamed: full RoPE", before, measured(prefill, models["sdpa"], config, weights))]
    traps = {
        "left-padded batch, decoding": (padded_batch, "sdpa"),
        "second turn on a kept cache, sdpa": (second_turn, "sdpa"),
        "second turn on a kept cache, eager": (second_turn, "eager"),
        "token by token without position_ids": (token_by_token, "sdpa"),
        "4 beams (1: other tokens)": (beams, "sdpa"),
    }
    repair_cache()
    for title, (trap, attention) in traps.items():
        with stock_cache():
            before = measured(trap, models[attention], config, weights)
        lines.append((title, before, measured(trap, models[attention], config, weights)))
    ways = {
        "right-padded prompts, then decoding": right_padded,
        "pads between two messages": pads_between,
        "packed rows, the second document": packed,
    }
    for title, trap in ways.items():  # the cache's repair is not enough for these: the states are wrong
        use_lightning(models["sdpa"], "stock")
        before = measured(trap, models["sdpa"], config, weights)
        use_lightning(models["sdpa"], "torch")
        lines.append((title, before, measured(trap, models["sdpa"], config, weights)))
    return "\n".join(["| trap | stock | repaired |", "|---|---|---|", *map(_line, lines)])


def _line(cells: tuple) -> str:
    return "| " + " | ".join(cell if isinstance(cell, str) else f"{cell:.1e}" for cell in cells) + " |"


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        print(table(Path(temporary)))
