"""Which experts wrote a reply: the router's choices for each token of a message and its reply, and how even they are.

    experts = Experts(model, tokenizer)
    experts.start()
    experts.wait()
    print(experts.text)

For each token a layer's router takes the few experts with the largest scores. It gives their results weights
that add up to 1. The reply is greedy, in a conversation of its own. Its last token was written but never
read, so no router has seen it. Other threads may use the model meanwhile, because only the tokens of this
thread are recorded.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from html import escape

from transformers.models.minimax.modeling_minimax import MiniMaxTopKRouter

from ...chat import Chat
from ...language import mark, sentences, tr
from ..controls import Control
from ..hooks import watched
from ..markup import bar
from ..tokens import noted, percent, pieces, read_out
from .explorer import Explorer

LONGEST = 200  # tokens of a reply
MOST = 500  # tokens that are drawn; of more only the last ones

Choice = list[tuple[int, float]]  # of one token in one layer: experts and their weights, the largest first


class Record:
    """Token ids in the order in which the model read them, and for each layer the choice for each of them."""

    def __init__(self, layers: int):
        self.ids: list[int] = []
        self.layers: list[list[Choice]] = [[] for _ in range(layers)]

    def whole(self) -> int:
        """How many tokens have gone through all layers. After an error some layers may have seen one more."""
        return min(len(self.ids), *map(len, self.layers))


class Experts(Explorer):
    title = mark("Which experts wrote it")
    action = mark("Reply")
    hint = mark(
        "Under each token stand its experts and their weights. The colour is that of the first expert. "
        "Escape stops a reply."
    )

    def __init__(self, model, tokenizer, message: str = "How do I make mayonnaise?"):
        self._model, self._tokenizer, self._routers = model, tokenizer, routers(model)
        layers = len(self._routers)
        self.experts, self.top_k = self._routers[0].num_experts, self._routers[0].top_k
        self.controls = (
            Control("message", mark("Message"), message),
            Control("layer", mark("Layer"), layers // 2, low=0, high=layers - 1),
        )
        super().__init__()

    def forget(self) -> None:
        self.record = Record(len(self._routers))

    def summary(self) -> str:
        layer, whole = self.values["layer"], self.record.whole()
        return _most(tr("Layer {layer}", layer=layer), self.chosen(layer), whole) if whole else ""

    def run(self) -> Iterator:
        chat, message, record = Chat(self._model, self._tokenizer), self.values["message"], Record(len(self._routers))
        reply = chat.stream(message, do_sample=False, max_new_tokens=LONGEST)
        with recorded(self._model, record):
            for count, _ in enumerate(reply):
                if count == 0:
                    yield record  # it goes on growing, so what is drawn later has the rest
                yield tr("writing: {count} tokens read", count=record.whole())

    def keep(self, result: Record) -> None:
        self.record = result

    def chosen(self, layer: int | None = None) -> list[int]:
        """For how many tokens each expert was chosen, in a layer or in all."""
        layers = self.record.layers if layer is None else [self.record.layers[layer]]
        whole = self.record.whole()
        count = Counter(expert for choices in layers for choice in choices[:whole] for expert, _ in choice)
        return [count[expert] for expert in range(self.experts)]

    def draw(self) -> str:
        if not self.record.whole():
            return f"<p>{escape(self.describe())}</p>"
        tokens, choices = self._last_tokens()
        colours = [f"hsla({360 * choice[0][0] // self.experts},70%,50%,0.3)" for choice in choices]
        said = "".join(f"<p>{escape(line)}</p>" for line in self._sentences())
        return said + self._balance() + noted(tokens, list(map(_note, choices)), colours)

    def describe(self) -> str:
        if not self.record.whole():
            nothing = tr("The model has read nothing yet: press Reply.")
            counts = {"top_k": self.top_k, "experts": self.experts}
            return sentences(nothing, tr("In each layer a token goes through {top_k} of {experts} experts.", **counts))
        tokens, choices = self._last_tokens()
        return "\n".join([*self._sentences(), read_out(tokens, list(map(_note, choices)))])

    def _last_tokens(self) -> tuple[list[str], list[Choice]]:
        """The tokens to be drawn, and the choices of the layer that is looked at."""
        part = slice(max(self.record.whole() - MOST, 0), self.record.whole())
        return pieces(self._tokenizer, self.record.ids[part]), self.record.layers[self.values["layer"]][part]

    def _sentences(self) -> list[str]:
        layer, layers, whole = self.values["layer"], len(self._routers), self.record.whole()
        counts = {"top_k": self.top_k, "experts": self.experts, "share": percent(self.top_k / self.experts)}
        even = tr("Each token takes {top_k} of {experts} experts, so {share} each would be even.", **counts)
        cut = tr("Of {whole} tokens the last {most} are shown.", whole=f"{whole:,}", most=MOST) if whole > MOST else ""
        return [
            _extremes(tr("Layer {layer}", layer=layer), self.chosen(layer), whole),
            _extremes(tr("All {layers} layers", layers=layers), self.chosen(), whole * layers),
            sentences(even, cut),
        ]

    def _balance(self) -> str:
        """A table with a row for each expert: bar, count and share, in the chosen layer and in all layers."""
        layer, whole = self.values["layer"], self.record.whole()
        sides = [(self.chosen(layer), whole), (self.chosen(), whole * len(self._routers))]
        heads = (tr("layer {layer}", layer=layer), tr("all {layers} layers", layers=len(self._routers)))
        top = "".join(f'<th scope="col" colspan="2">{head}</th>' for head in heads)
        rows = [
            (tr("expert {number}", number=each), [(counts[each], total) for counts, total in sides])
            for each in range(self.experts)
        ]
        rows.append((tr("even"), [(total * self.top_k / self.experts, total) for _, total in sides]))
        most = max(count / total for _, cells in rows for count, total in cells)
        body = "".join(_row(*row, most) for row in rows)
        head = f"<thead><tr><td></td>{top}</tr></thead>"
        return f'<table class="mmnb-balance">{head}<tbody>{body}</tbody></table>'


def routers(model) -> list[MiniMaxTopKRouter]:
    """One a layer, in order. ValueError for a model without."""
    found = [module for module in model.modules() if isinstance(module, MiniMaxTopKRouter)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no routers: load a converted MiniMax folder")
    return found


def recorded(model, record: Record) -> AbstractContextManager:
    """While it is open, what this thread runs through `model`, one row at a time, is added to `record`."""

    def read(inputs, _) -> None:
        record.ids += inputs[0].flatten().tolist()

    def choose(layer: list[Choice], _, output) -> None:
        _, weights, experts = output  # weights and experts: (tokens, top_k)
        rows = zip(experts.tolist(), weights.tolist(), strict=True)
        layer += [list(zip(*row, strict=True)) for row in rows]

    choosing = {router: partial(choose, layer) for router, layer in zip(routers(model), record.layers, strict=True)}
    return watched({model.get_input_embeddings(): read} | choosing)


def _extremes(where: str, counts: list[int], total: int) -> str:
    """How often the expert that was chosen most, and the one that was chosen least."""
    least = min(counts)
    if least == max(counts):
        return tr("{first}.", first=_most(where, counts, total))
    last = {"last": counts.index(least), "count": f"{least:,}", "share": percent(least / total)}
    first = _most(where, counts, total)
    return tr("{first}, expert {last} least, {count} ({share}).", first=first, **last)


def _most(where: str, counts: list[int], total: int) -> str:
    most = max(counts)
    found = {"where": where, "count": f"{most:,}", "total": f"{total:,}"}
    if most == min(counts):
        return tr("{where}: all experts alike, {count} of {total} times", **found)
    found |= {"expert": counts.index(most), "share": percent(most / total)}
    return tr("{where}: expert {expert} most, {count} of {total} times ({share})", **found)


def _row(name: str, cells: list[tuple[float, int]], most: float) -> str:
    """For each count and its total a bar, `most` at full width, and the figures."""
    shares = [(count, count / total) for count, total in cells]
    columns = "".join(
        f'<td style="text-align:left">{bar(share / most, 8)}</td><td>{count:,.0f} ({percent(share)})</td>'
        for count, share in shares
    )
    return f'<tr><th scope="row">{name}</th>{columns}</tr>'


def _note(choice: Choice) -> str:
    return ", ".join(f"{expert}: {percent(weight)}" for expert, weight in choice)
