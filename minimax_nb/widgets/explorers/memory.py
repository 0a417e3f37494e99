"""How much of each token of a text one head has left for the last one: by its decay alone, or with q and k too.

    memory = HeadMemory(tokenizer)              # the 80 layers and 64 heads of MiniMax-Text-01: a formula, no weights
    memory = HeadMemory(tokenizer, model)       # those of a native model, and q and k of the text
    memory.set("layer", 65)
    print(memory.text)

After n more tokens exp(-slope n) of a token's weight is left. With q and k the weight of token s for the last
one, t, is (q_t k_s) exp(-slope (t - s)). It multiplies v_s in the head's output, before the layer's norm. The
norm takes the scale away, so weights are shown as shares of the largest. A negative weight means that the
token is subtracted. Of softmax layers this file knows only where they are.
"""

from functools import partial
from html import escape
from math import log

import torch
from torch import Tensor, nn

from ...language import mark, sentences, tr
from ...lightning.operator import slopes
from ...original import original_config
from ..controls import Control
from ..hooks import watched
from ..tokens import noted, percent, pieces, read_out, tint, visible
from .explorer import Explorer

TEXT = (
    "My name is Zelda. My favourite condiment is mustard, and I put it on eggs, on bread and into every soup. "
    "Last week I had none left, so I made mayonnaise instead. It was good, but it was not the same. "
    "What is my favourite condiment? Your favourite condiment is"
)
MOST = 500  # tokens; of a longer text only the last ones are read
LEFT = 0.01  # a token of which less than this share is left counts as forgotten
DECAY, QK = mark("decay alone"), mark("decay times q k")


class HeadMemory(Explorer):
    hint = mark(
        "Under each token stands how much of it is left for the last token of the text. Orange and a minus: "
        "the token is subtracted. Arrow keys move the sliders. Enter in the text field takes a new text."
    )

    def __init__(self, tokenizer, model=None):
        self._tokenizer, self._model, self._scores = tokenizer, model, ([], {})
        layers, heads, lightning = _sizes(model)
        self.title = mark("What a head of MiniMax-Text-01 remembers")
        if model:
            self.title = mark("What a head of this model remembers")
        self._slopes = {layer: slopes(heads, layer, layers) for layer in lightning}
        self.controls = (
            Control("layer", mark("Layer"), layers // 4, low=0, high=layers - 1),
            Control("head", mark("Head"), heads * 2 // 5, low=0, high=heads - 1),
            *([Control("weight", mark("Weight"), DECAY, options=(DECAY, QK))] if model else []),
            Control("text", mark("Text"), TEXT),
        )
        super().__init__()

    @property
    def slope(self) -> float | None:
        """Decay rate per token of the chosen head; None in a softmax layer."""
        layer = self._slopes.get(self.values["layer"])
        return None if layer is None else layer[self.values["head"]].item()

    @property
    def _qk(self) -> bool:
        return self.values.get("weight") == QK

    @property
    def _mark(self) -> str:
        return tr("small") if self._qk else tr("gone")

    def ids(self) -> list[int]:
        return self._tokenizer(self.values["text"], add_special_tokens=False).input_ids[-MOST:]

    def shares(self, ids: list[int]) -> list[float]:
        """How much of each token is left: (tokens,). With q and k they are signed shares of the largest."""
        left = torch.exp(-self.slope * torch.arange(len(ids) - 1, -1, -1, dtype=torch.float64))
        if self._qk:
            if self._scores[0] != ids:
                self._scores = ids, scores(self._model, ids)
            left = left * self._scores[1][self.values["layer"]][self.values["head"]]
            left = left / left.abs().max().clamp(min=1e-30)
        return left.tolist()

    def summary(self) -> str:
        return self._findings()[0][0].rstrip(".。")

    def draw(self) -> str:
        said, tokens, shares = self._findings()
        boxes = noted(tokens, self._notes(shares), [tint(share or 0) for share in shares]) if tokens else ""
        return f"<p>{escape(self._head())}</p>{boxes}<p>{escape(sentences(*said))}</p>"

    def describe(self) -> str:
        said, tokens, shares = self._findings()
        return "\n".join([self._head(), read_out(tokens, self._notes(shares)), sentences(*said)])

    def _findings(self) -> tuple[list[str], list[str], list[float | None]]:
        """What there is to say, in sentences; the tokens, and their shares, which are None in a softmax layer."""
        ids = self.ids()
        tokens, shares = pieces(self._tokenizer, ids), [None] * len(ids)
        if not ids:
            return [tr("There is no text: type a sentence.")], [], []
        if self.slope is None:
            said = [tr("All {count} tokens are kept.", count=len(ids))]
        else:
            shares = self.shares(ids)
            first = self._strongest(tokens, shares) if self._qk else self._reach(len(ids))
            said = [*([first] if first else []), self._below(shares)]
        if len(ids) == MOST:
            said.append(tr("Longer texts are cut to their last {most} tokens.", most=MOST))
        return said, tokens, shares

    def _head(self) -> str:
        name = {"layer": self.values["layer"], "head": self.values["head"]}
        if self.slope is None:
            softmax = tr("Layer {layer}, head {head}: softmax attention, which has no decay.", **name)
            return sentences(softmax, tr("It keeps the keys and values of all tokens."))
        rates = torch.stack(list(self._slopes.values()))  # (lightning layers, heads)
        further = int((rates < self.slope).sum())
        name |= {"count": _count(log(2) / self.slope)}
        half = tr("Layer {layer}, head {head}: its memory of a token has halved after {count} more tokens.", **name)
        counts = {"heads": f"{rates.numel():,}", "further": f"{further:,}"}
        return sentences(half, tr("Of {heads} heads, {further} see further.", **counts))

    def _reach(self, length: int) -> str:
        beyond = log(2) / self.slope - (length - 1)
        if beyond <= 0:
            return ""
        count = _count(beyond)
        return tr(
            "Half would be left of a token that stood {count} tokens before the first one of this text.", count=count
        )

    def _strongest(self, tokens: list[str], shares: list[float]) -> str:
        at = max(range(len(shares)), key=lambda each: abs(shares[each]))
        where = {"token": visible(tokens[at]), "back": len(tokens) - 1 - at}
        return tr(
            'The largest weight is on "{token}", {back} back from the last token; the figures are shares of it.',
            **where,
        )

    def _below(self, shares: list[float]) -> str:
        if not (small := sum(abs(share) < LEFT for share in shares)):
            return tr("No token is below 1 %.")
        counts = {"mark": self._mark, "small": small, "total": len(shares)}
        return tr('Below 1 %, marked "{mark}": {small} of {total} tokens.', **counts)

    def _notes(self, shares: list[float | None]) -> list[str]:
        return [
            tr("kept") if share is None else percent(share) if abs(share) >= LEFT else self._mark for share in shares
        ]


def lightning_layers(model) -> list[nn.Module]:
    """In order. ValueError for a model without."""
    from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

    found = [module for module in model.modules() if isinstance(module, MiniMaxLightningAttention)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no lightning layers: load a converted MiniMax folder")
    return found


@torch.no_grad()
def scores(model, ids: list[int]) -> dict[int, Tensor]:
    """q of the last token times k of each token, before any decay: (heads, tokens) for each lightning layer."""
    found = {}

    def catch(layer, _, qkv: Tensor) -> None:
        sizes = (layer.num_attention_heads, 3, layer.head_dim)
        q, k, _ = layer.act_fn(qkv[0]).double().cpu().unflatten(-1, sizes).unbind(2)  # (tokens, heads, head_dim) each
        found[layer.layer_idx] = torch.einsum("hd,nhd->hn", q[-1], k)

    with watched({layer.qkv_proj: partial(catch, layer) for layer in lightning_layers(model)}):
        model(torch.tensor([ids], device=model.device), logits_to_keep=1)
    return found


def _sizes(model) -> tuple[int, int, set[int]]:
    """Number of layers, number of heads, and which layers are lightning layers; without a model those of Text-01."""
    if model is None:
        text_01 = original_config()
        lightning = {layer for layer, softmax in enumerate(text_01["attn_type_list"]) if not softmax}
        return text_01["num_hidden_layers"], text_01["num_attention_heads"], lightning
    first, *rest = lightning_layers(model)
    return first.num_hidden_layers, first.num_attention_heads, {layer.layer_idx for layer in (first, *rest)}


def _count(tokens: float) -> str:
    return f"{tokens:.1f}" if tokens < 100 else f"{tokens:,.0f}"
