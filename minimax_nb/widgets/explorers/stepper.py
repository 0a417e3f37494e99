"""Attention tile by tile, as a fused kernel goes through it: eight tokens, tiles of two, a step a tile.

    stepper = Stepper()
    stepper.set("step", 4)
    print(stepper.words())

Scores are made for one tile at a time and thrown away. What is kept of a row is its largest score so far, the sum of
exp(score - largest) and the output; when a larger score comes, sum and output are scaled down to it. From Dao et al.,
arXiv 2205.14135, algorithm 1. Tiles in the future of all their queries are never visited.
"""

from typing import NamedTuple

import torch

from ..controls import Control
from ..markup import table
from .explorer import Explorer

TOKENS, TILE, DIMS = 8, 2, 2
TILES = [(row, column) for row in range(0, TOKENS, TILE) for column in range(0, row + 1, TILE)]
SIZES = ("1", "10", "100")
LEGEND = "In brackets: held now; gone: used and thrown away; later: not yet made; -: in the query's future."


class Row(NamedTuple):
    """What is kept of a query: the largest score so far, the sum of exp(score - largest), the output times that sum."""

    largest: float = float("-inf")
    total: float = 0.0
    out: tuple[float, ...] = (0.0,) * DIMS

    def take(self, scores: list[float], values: list[list[float]]) -> "Row":
        """The same after the scores of one more tile, and the values of its keys."""
        largest = max(self.largest, *scores)
        kept = torch.tensor(self.largest - largest).exp().item()
        weights = [torch.tensor(score - largest).exp().item() for score in scores]
        mixed = [sum(w * value[dim] for w, value in zip(weights, values, strict=True)) for dim in range(DIMS)]
        out = tuple(kept * old + new for old, new in zip(self.out, mixed, strict=True))
        return Row(largest, kept * self.total + sum(weights), out)

    def result(self) -> tuple[float, ...]:
        return tuple(part / self.total for part in self.out)


class Stepper(Explorer):
    title = "Attention, tile by tile"
    hint = "Arrow keys move the slider. Times 100, exp(score) is beyond fp32; with the largest taken off it is not."
    controls = (
        Control("step", "Step", 0, low=0, high=len(TILES)),
        Control("size", "Scores times", "1", options=SIZES),
    )

    def forget(self) -> None:
        generator = torch.Generator().manual_seed(3)
        q, k, self._v = torch.randn(3, TOKENS, DIMS, generator=generator)
        self._scores = q @ k.T

    def rows(self) -> list[Row]:
        """What is kept of each query after the chosen step."""
        rows, scores = [Row()] * TOKENS, self.scores()
        for top, left in TILES[: self.values["step"]]:
            for query in range(top, top + TILE):
                keys = range(left, min(left + TILE, query + 1))
                rows[query] = rows[query].take([scores[query][key] for key in keys], self._v[list(keys)].tolist())
        return rows

    def scores(self) -> list[list[float]]:
        return (self._scores * float(self.values["size"])).tolist()

    def plain(self) -> list[list[float]]:
        """Softmax attention over the whole matrix at once."""
        future = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        whole = torch.tensor(self.scores()).masked_fill(future, float("-inf")).softmax(-1)
        return (whole @ self._v).tolist()

    def draw(self) -> str:
        head = ["query", *(f"key {key}" for key in range(TOKENS)), "largest", "sum", "output"]
        scores, rows = self.scores(), self.rows()
        body = [[str(query), *self._marks(query, scores), *_kept(rows[query])] for query in range(TOKENS)]
        return table(head, body, "Scores") + f"<p>{LEGEND}</p><p>{self._memory()} {self._exact(rows)}</p>"

    def words(self) -> str:
        return f"{self._memory()} {self._exact(self.rows())}"

    def _tile(self) -> tuple[int, int] | None:
        return TILES[self.values["step"] - 1] if self.values["step"] else None

    def _marks(self, query: int, scores: list[list[float]]) -> list[str]:
        """A score while it is held; "gone" after, "later" before, and "-" for what is in the query's future."""
        past = TILES[: max(self.values["step"] - 1, 0)]
        found = []
        for key in range(TOKENS):
            tile = (query - query % TILE, key - key % TILE)
            mark = "gone" if tile in past else f"[{scores[query][key]:.1f}]" if tile == self._tile() else "later"
            found.append("-" if key > query else mark)
        return found

    def told(self) -> str:
        if not (tile := self._tile()):
            return f"Step 0 of {len(TILES)}: nothing is computed yet."
        queries, keys = (f"{first} and {first + TILE - 1}" for first in tile)
        return f"Step {self.values['step']} of {len(TILES)}: queries {queries} meet keys {keys}."

    def _memory(self) -> str:
        held = TILE * TILE + TILE * (2 + DIMS)
        return (
            f"On the chip: {TILE * TILE} scores, and of {TILE} queries largest, sum and output: {held} numbers, "
            f"however long the text. Plain softmax writes {TOKENS * TOKENS} scores to memory."
        )

    def _exact(self, rows: list[Row]) -> str:
        done = [query for query, row in enumerate(rows) if self.values["step"] >= _last_step(query)]
        if not done:
            return "No query is finished."
        plain = self.plain()
        apart = max(abs(a - b) for query in done for a, b in zip(rows[query].result(), plain[query], strict=True))
        return f"Finished queries: {len(done)}, equal to plain softmax within 1e-6: {'yes' if apart < 1e-6 else 'NO'}."


def _last_step(query: int) -> int:
    """The step after which a query has met all its keys."""
    top = query - query % TILE
    return TILES.index((top, top)) + 1


def _kept(row: Row) -> list[str]:
    if not row.total:
        return ["", "", ""]
    return [f"{row.largest:.1f}", f"{row.total:.3f}", ", ".join(f"{part:.2f}" for part in row.result())]
