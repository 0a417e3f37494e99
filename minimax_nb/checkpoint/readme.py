"""The README.md of a converted or restored folder, for whoever finds it later and does not know where it came from."""

from ..config import MARKER

README = "README.md"
TEXT = """\
# {name}, converted for Hugging Face Transformers

The package minimax-nb made this folder from `{name}`, a checkpoint in MiniMax's own format.{rows}{links}

- **In Python:** `from minimax_nb import load; model, tokenizer = load("THIS_FOLDER")`. With Transformers' own
  `from_pretrained`, call `minimax_nb.repair_cache()` first. Its cache for this model does not know its own
  length, so padded batches, second turns and beams come out wrong, without an error message.
- **Tools that load a model by name** (lm-eval, `transformers serve`, pipelines, Trainer) do not make that call.
  Start them through `minimax_nb.run`:
  `python -m minimax_nb.run -m lm_eval --model hf --model_args pretrained=THIS_FOLDER`.
- **vLLM and llama.cpp want the original folder**, never this one. They treat the rotation themselves. Once you have
  trained this model, `minimax-nb restore TUNED_FOLDER NEW_FOLDER` takes it back to their format.
- **Is it all right?** `minimax-nb check THIS_FOLDER` says so on your machine.
"""
ROWS = """
Transformers turns whole heads by a token's position (RoPE), MiniMax the first {rotary_dim} of {head_dim} dims.
So the rows of `q_proj` and `k_proj` in the softmax layers stand in another order here, and `config.json`
describes a rotation that fits that order."""
RESTORED = """\
# {name}, in MiniMax's own format

The package minimax-nb made this {what} from `{name}`, which was in the form that Hugging Face Transformers computes
right.{links}

- **llama.cpp and vLLM** read this format. MiniMax starts vLLM with `--trust-remote-code`, and then it needs the code
  of the original folder, which is here only if `minimax-nb restore` was given `--original`.
- **Transformers computes it wrong** as it is. {convert}
"""
CONVERT = "`minimax-nb patch THIS_FOLDER NEW_FOLDER` makes a folder for it."
KEEP = "Load the adapter from which this one was made, on the converted folder."
ELSEWHERE = """
Weight files may be links into other folders: keep these too."""
LINKS = """
Weight files may be links to those of the original folder: keep both."""


def readme(name: str, config: dict, *, link: bool) -> bytes:
    """`name` is that of the original folder, `config` the converted one; with `link`, weights are links."""
    rotary_dim, head_dim = config[MARKER]["rotary_dim"], config["head_dim"]
    rows = ROWS.format(rotary_dim=rotary_dim, head_dim=head_dim) if rotary_dim < head_dim else ""
    return TEXT.format(name=name, rows=rows, links=LINKS if link else "").encode()


def restored_readme(name: str, *, link: bool = False, adapter: bool = False) -> bytes:
    """`name` is that of the folder it came from; with `link`, weights are links."""
    what, convert = ("adapter", KEEP) if adapter else ("folder", CONVERT)
    return RESTORED.format(name=name, what=what, convert=convert, links=ELSEWHERE if link else "").encode()
