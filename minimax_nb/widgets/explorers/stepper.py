"""Attention tile by tile, as a fused kernel goes through it: eight tokens, tiles of two, a step a tile.

    stepper = Stepper()
    stepper.set("step", 4)
    print(stepper.text)

The scores are computed for one tile at a time and then thrown away. Of each query only three things are kept:
its largest score so far, the sum of exp(score - largest), and the output times that sum. When a tile brings a
larger score, the sum and the output were made with the wrong largest, so both are multiplied by exp(old
largest - new largest), the shrink factor. This is algorithm 1 of Dao et al., arXiv 2205.14135. Tiles that lie
in the future of all their queries are never visited.
"""

from math import exp, inf
from typing import NamedTuple

import torch

from ...language import mark, sentences, tr
from ..controls import Control
from ..markup import table
from .explorer import Explorer

TOKENS, TILE, DIMS = 8, 2, 2
TILES = [(row, column) for row in range(0, TOKENS, TILE) for column in range(0, row + 1, TILE)]
SIZES = ("1", "10", "100")
LEGEND = mark("In brackets: held now. gone: used and thrown away. later: not computed yet. -: in the query's future.")


class Row(NamedTuple):
    """What is kept of a query: the largest score so far, the sum of exp(score - largest), the output times that sum.

    `shrink` is the factor by which the last tile has multiplied the sum and the output before it added its
    own.
    """

    largest: float = -inf
    total: float = 0.0
    out: tuple[float, ...] = (0.0,) * DIMS
    shrink: float = 0.0

    def take(self, scores: list[float], values: list[list[float]]) -> "Row":
        """The same after the scores of one more tile, and the values of its keys: (keys,) and (keys, DIMS)."""
        largest = max(self.largest, *scores)
        shrink = exp(self.largest - largest)
        weights = [exp(score - largest) for score in scores]
        added = [sum(w * value[dim] for w, value in zip(weights, values, strict=True)) for dim in range(DIMS)]
        out = tuple(shrink * old + new for old, new in zip(self.out, added, strict=True))
        return Row(largest, shrink * self.total + sum(weights), out, shrink)

    def result(self) -> tuple[float, ...]:
        return tuple(part / self.total for part in self.out)


class Stepper(Explorer):
    title = mark("Attention, tile by tile")
    hint = mark(
        "Arrow keys move the slider. With scores a hundred times as large, exp(score) is too large for fp32; "
        "exp(score - largest) never is."
    )
    controls = (
        Control("step", mark("Step"), 0, low=0, high=len(TILES)),
        Control("size", mark("Scores times"), "1", options=SIZES),
    )

    def forget(self) -> None:
        generator = torch.Generator().manual_seed(3)
        q, k, self._v = torch.randn(3, TOKENS, DIMS, generator=generator)  # (TOKENS, DIMS) each
        self._scores = q @ k.T  # (TOKENS, TOKENS)

    def rows(self, steps: int | None = None) -> list[Row]:
        """What is kept of each query after so many steps; without a number after the chosen one."""
        rows, scores = [Row()] * TOKENS, self.scores()
        for top, left in TILES[: self.values["step"] if steps is None else steps]:
            for query in range(top, top + TILE):
                keys = range(left, min(left + TILE, query + 1))  # on the diagonal a query does not see what follows it
                rows[query] = rows[query].take([scores[query][key] for key in keys], self._v[list(keys)].tolist())
        return rows

    def scores(self) -> list[list[float]]:
        return (self._scores * float(self.values["size"])).tolist()

    def plain(self) -> list[list[float]]:
        """Softmax attention over the whole matrix at once."""
        future = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        weights = torch.tensor(self.scores()).masked_fill(future, -inf).softmax(-1)
        return (weights @ self._v).tolist()

    def draw(self) -> str:
        keys = [tr("key {number}", number=key) for key in range(TOKENS)]
        head = [tr("query"), *keys, tr("largest"), tr("shrink"), tr("sum"), tr("output")]
        scores, rows = self.scores(), self.rows()
        body = [[str(query), *self._marks(query, scores), *self._kept(query, rows[query])] for query in range(TOKENS)]
        below = "".join(f"<p>{said}</p>" for said in (tr(LEGEND), *self._sentences(rows)))
        return table(head, body, tr("Scores, and what is kept of each query")) + below

    def describe(self) -> str:
        return sentences(*self._sentences(self.rows()))

    def summary(self) -> str:
        if not (tile := self._tile()):
            return tr("Step 0 of {steps}: nothing is computed yet.", steps=len(TILES))
        counts = {"step": self.values["step"], "steps": len(TILES)}
        counts |= {"query": tile[0], "next_query": tile[0] + TILE - 1, "key": tile[1], "next_key": tile[1] + TILE - 1}
        return tr("Step {step} of {steps}: queries {query} and {next_query} meet keys {key} and {next_key}.", **counts)

    def _tile(self) -> tuple[int, int] | None:
        return TILES[self.values["step"] - 1] if self.values["step"] else None

    def _marks(self, query: int, scores: list[list[float]]) -> list[str]:
        """A score while it is held, "gone" after that, "later" before, and "-" for what is in the query's future."""
        past = TILES[: max(self.values["step"] - 1, 0)]
        marks = []
        for key in range(TOKENS):
            tile = (query - query % TILE, key - key % TILE)
            if key > query:
                marks.append("-")
            elif tile in past:
                marks.append(tr("gone"))
            else:
                marks.append(f"[{scores[query][key]:z.1f}]" if tile == self._tile() else tr("later"))
        return marks

    def _kept(self, query: int, row: Row) -> list[str]:
        """The last cells of a query's row; a shrink factor only at the step at which it is used."""
        if not row.total:
            return ["", "", "", ""]
        top, left = self._tile()
        shrink = f"{row.shrink:.2f}" if left and query in range(top, top + TILE) else ""
        return [f"{row.largest:z.1f}", shrink, f"{row.total:.3f}", ", ".join(f"{part:z.2f}" for part in row.result())]

    def _sentences(self, rows: list[Row]) -> list[str]:
        """What happened at this step, what it takes, and what is finished. Before the first step there is nothing."""
        if not (tile := self._tile()):
            return []
        before = self.rows(self.values["step"] - 1)
        happened = [_happened(query, before[query], rows[query]) for query in range(tile[0], tile[0] + TILE)]
        held = TILE * TILE + TILE * (2 + DIMS)
        memory = tr(
            "On the chip: {scores} scores, and of {queries} queries largest, sum and output: {held} numbers, however "
            "long the text. Plain softmax writes {all} scores to memory.",
            **{"scores": TILE * TILE, "queries": TILE, "held": held, "all": TOKENS * TOKENS},
        )
        return [sentences(*happened), memory, self._exact(rows)]

    def _exact(self, rows: list[Row]) -> str:
        done = [query for query in range(TOKENS) if self.values["step"] >= _last_step(query)]
        if not done:
            return tr("No query is finished.")
        plain = self.plain()
        apart = max(abs(a - b) for query in done for a, b in zip(rows[query].result(), plain[query], strict=True))
        if apart < 1e-6:
            return tr("Finished queries: {count}, equal to plain softmax within 1e-6: yes.", count=len(done))
        return tr("Finished queries: {count}, equal to plain softmax within 1e-6: NO.", count=len(done))


def _happened(query: int, before: Row, after: Row) -> str:
    if not before.total:
        return tr("Query {query} meets its first tile, so there is nothing to shrink.", query=query)
    found = {"query": query, "before": f"{before.largest:z.1f}", "after": f"{after.largest:z.1f}"}
    if after.largest == before.largest:
        return tr("Query {query} meets no score above {before}, so its sum and output stay (factor 1).", **found)
    return tr(
        "Query {query} meets a larger score, {after} after {before}, so its sum and output are first multiplied by "
        "exp({before} - {after}) = {shrink}.",
        **found,
        shrink=f"{after.shrink:.3g}",
    )


def _last_step(query: int) -> int:
    """The step after which a query has met all its keys."""
    top = query - query % TILE
    return TILES.index((top, top)) + 1
