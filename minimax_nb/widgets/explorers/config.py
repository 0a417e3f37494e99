"""Half-converted configs: each repair of a conversion is a switch, and what any choice of them computes is measured.

    explorer = ConfigExplorer(source, folder)    # an original folder, and the one that patch_checkpoint made of it
    explorer.set("rows", True)
    explorer.start()
    explorer.wait()
    print(explorer.text)

A repair that is on is done as `patch_checkpoint` does it. A repair that is off leaves the original's own
keys, which Transformers does not read. At the start both halves of the rotation are off, because that is what
renaming every key by hand leaves. Each combination becomes a model of stock Transformers in memory, and
nothing is written; so this is for models that are small, such as the demo.
"""

import threading
from collections.abc import Iterator
from functools import cached_property
from html import escape
from math import exp
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, MiniMaxConfig, MiniMaxForCausalLM

from ... import reference
from ...checkpoint.folder import read_json
from ...config import MARKER, patch_config
from ...demo.card import surprises
from ...diff import NAMES, differences, shown
from ...language import mark, tr
from ...terminal import quiet_transformers
from ..controls import Control
from ..markup import table
from .explorer import Explorer

TEXTS = 4  # held-out conversations for the perplexity; the hint names their number
LONGEST = 40  # tokens of a reply
CHAT = "My order number is 845921.", "Good, I will remember that.", "What is my order number?"
REPLY = "Your order number is 845921."
DIFF = mark("converted folder"), mark("these switches"), mark("Transformers takes")
RESULTS = mark("repairs"), mark("logits off by"), mark("perplexity"), mark("reply to: {question}")
_LOADING = threading.Lock()  # loading changes what the whole process shares: Transformers' verbosity, random numbers


class Repair(NamedTuple):
    """Without it `keys` of the converted config are the original's again. `lack` says what that does."""

    label: str
    keys: tuple[str, ...]
    lack: str


def _factors(kind: str, label: str, lack: str) -> Repair:
    return Repair(label, (f"{kind}_alpha_factor", f"{kind}_beta_factor"), lack)


REPAIRS = {
    "layer_types": Repair(
        "layer_types",
        ("layer_types",),
        mark("Layers of the two kinds alternate. A layer of the wrong kind finds no weights and gets random ones."),
    ),
    "full_attn": _factors(
        "full_attn",
        mark("full_attn factors"),
        mark("The stream is not scaled up before the output of the softmax layers is added, as it was in training."),
    ),
    "linear_attn": _factors(
        "linear_attn",
        mark("linear_attn factors"),
        mark("The stream is not scaled up before the output of the lightning layers is added, as it was in training."),
    ),
    "mlp": _factors(
        "mlp",
        mark("mlp factors"),
        mark("The stream is not scaled up before the output of the experts is added, as it was in training."),
    ),
    "rope_parameters": Repair(
        "rope_parameters",
        ("rope_parameters",),
        mark("All dims of a head turn, not only the first ones, and at other speeds (full RoPE)."),
    ),
    "rows": Repair(
        mark("rows of q and k"), (), mark("Two dims that turn together do not lie where Transformers looks for them.")
    ),
    "eos": Repair("eos_token_id", (), mark("Nothing tells Transformers where a reply ends.")),
}


class Measured(NamedTuple):
    """Relative error of the logits, perplexity of the held-out texts, reply to the last question of CHAT."""

    error: float
    perplexity: float
    reply: str

    def cells(self) -> list[str]:
        off = f"{self.error:.0%}" if self.error > 1e-5 else "< 0.001%"
        return [off, f"{self.perplexity:.3g}", self.reply]


class ConfigExplorer(Explorer):
    """`measured` maps the tuple of the repairs that were off to what was measured then."""

    title = mark("Half-converted configs")
    action = mark("Measure")
    hint = mark(
        "A switch that is on is a repair that is done. Measure takes some seconds: it compares logits with "
        "float64, takes the perplexity of 4 texts and asks for a reply. Escape stops it. Other cells can run "
        "meanwhile."
    )
    controls = tuple(
        Control(name, repair.label, name not in ("rope_parameters", "rows")) for name, repair in REPAIRS.items()
    )

    def __init__(self, source: Path, folder: Path):
        self._source, self._folder = Path(source), Path(folder)
        self._original = read_json(self._source / "config.json")
        self._native = {key: value for key, value in patch_config(self._original).items() if key != MARKER}
        self._eos = read_json(self._folder / "generation_config.json")["eos_token_id"]
        super().__init__()

    def forget(self) -> None:
        self.measured: dict[tuple[str, ...], Measured] = {}

    def off(self) -> tuple[str, ...]:
        """The repairs that are switched off."""
        values = self.values
        return tuple(name for name in REPAIRS if not values[name])

    def config(self, off: tuple[str, ...]) -> dict:
        """The converted config with the original's keys for the repairs that are off."""
        gone = {key for name in off for key in REPAIRS[name].keys}
        left = {key: value for key, value in self._original.items() if NAMES.get(key) in gone}
        return {key: value for key, value in self._native.items() if key not in gone} | left

    def model(self, off: tuple[str, ...]) -> MiniMaxForCausalLM:
        """What stock Transformers makes of that config. Missing weights are random, the same ones each time."""
        config = MiniMaxConfig(**self.config(off))
        with _LOADING, quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = MiniMaxForCausalLM.from_pretrained(self._source if "rows" in off else self._folder, config=config)
        model.generation_config.eos_token_id = None if "eos" in off else self._eos
        model.generation_config.pad_token_id = self._tokenizer.eos_token_id
        return model

    def run(self) -> Iterator:
        known, chosen = self.measured, self.off()
        for off in dict.fromkeys([(), chosen]):  # the right one first, to compare with
            if off not in known:
                for step in self._measure(off):
                    yield tr("{what}: {step}", what=_title(off), step=step) if isinstance(step, str) else (off, step)

    def keep(self, result) -> None:
        off, measured = result
        self.measured = self.measured | {off: measured}

    def _measure(self, off: tuple[str, ...]) -> Iterator:
        yield tr("reading the weights")
        model = self.model(off)
        yield tr("logits, against a float64 computation that takes a while at first")
        error = self._error(model)
        total = count = 0
        for at, (surprise, tokens) in enumerate(surprises(model, self._tokenizer, TEXTS), 1):
            yield tr("perplexity, {at} of {total} texts", at=at, total=TEXTS)
            total, count = total + surprise, count + tokens
        yield tr("a reply")
        yield Measured(error, exp(total / count), self._reply(model))

    @torch.inference_mode()
    def _error(self, model) -> float:
        ids, truth = self._yardstick
        return ((model(torch.tensor([ids])).logits[0].double() - truth).norm() / truth.norm()).item()

    def _reply(self, model) -> str:
        inputs = self._tokenizer(self._prompt(*CHAT), return_tensors="pt")
        row = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)[0, inputs.input_ids.shape[1] :]
        return self._tokenizer.decode(row, skip_special_tokens=True)

    def _prompt(self, *turns: str) -> str:
        messages = [{"role": ("user", "assistant")[at % 2], "content": turn} for at, turn in enumerate(turns)]
        return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=len(turns) % 2 == 1)

    @cached_property
    def _tokenizer(self):
        return AutoTokenizer.from_pretrained(self._folder)

    @cached_property
    def _yardstick(self) -> tuple[list[int], torch.Tensor]:
        """The ids of a conversation, and their logits from the definition."""
        ids, weights = self._tokenizer(self._prompt(*CHAT, REPLY)).input_ids, {}
        for file in sorted(self._source.glob("*.safetensors")):
            weights |= load_file(file)
        return ids, reference.forward(self._original, weights, ids)

    def summary(self) -> str:
        off = self.off()
        if off in self.measured:
            return tr("{what}: measured", what=_title(off))
        return tr("{what}: not measured yet", what=_title(off))

    def draw(self) -> str:
        diff, results, lacks = self._diff(self.off()), self._results(), _lacks(self.off())
        parts = [f"<p>{tr('Nothing differs: this is the converted folder.')}</p>"]
        if diff:
            items = "".join(f"<li>{escape(line)}</li>" for line in lacks)
            parts = [table(_said(DIFF), diff, tr("What differs"), prose=True), f"<ul>{items}</ul>"]
        if results:
            parts.append(table(_said(RESULTS), results, tr("Measured so far"), prose=True))
        else:
            parts.append(f"<p>{tr('Nothing is measured yet.')}</p>")
        return "".join(parts)

    def describe(self) -> str:
        rows = []
        for head, body in ((DIFF, self._diff(self.off())), (RESULTS, self._results())):
            rows += [_said(head), *body] if body else []
        return "\n".join([*_lacks(self.off()), *(" | ".join(row).replace("\n", " ") for row in rows)])

    def _results(self) -> list[list[str]]:
        return [[_title(off), *measured.cells()] for off, measured in self.measured.items()]

    def _diff(self, off: tuple[str, ...]) -> list[list[str]]:
        """A row for each difference: the value converted, the value here, and what Transformers makes of it."""
        rows, end = (
            tr("rows of q_proj and k_proj"),
            "generation_config.json, eos_token_id",
        )  # repairs outside config.json
        here, right = self.config(off), {rows: tr("in Transformers' order"), end: self._eos}
        left = {
            rows: tr("as in the original") if "rows" in off else right[rows],
            end: None if "eos" in off else self._eos,
        }
        taken = MiniMaxConfig(**here).to_dict() | left
        found = differences(here | left, self._native | right)
        return [[shown(row.after), shown(row.before), *(_taken(taken[key]) for key in row.after)] for row in found]


def _title(off: tuple[str, ...]) -> str:
    if not off:
        return tr("all on")
    return tr("without {repairs}", repairs=tr(", ").join(tr(REPAIRS[name].label) for name in off))


def _lacks(off: tuple[str, ...]) -> list[str]:
    return [tr("{name}: {value}", name=tr(REPAIRS[name].label), value=tr(REPAIRS[name].lack)) for name in off]


def _said(head: tuple[str, ...]) -> list[str]:
    return [tr(name, question=CHAT[-1]) for name in head]


def _taken(value) -> str:
    if isinstance(value, list):
        return ", ".join(kind.removesuffix("_attention") for kind in value)
    return shown(value) if isinstance(value, dict) else shown({"": value}).removeprefix(": ")
