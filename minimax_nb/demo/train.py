"""Train the demo model from nothing: python -m minimax_nb.demo.train [--quick] [--out FOLDER]

The tokenizer, then the model, then the checkpoint in MiniMax's original format. Batch i is made from (seed,
i), so a run that was stopped (Ctrl-C saves) goes on where it was when the same command is given again. It
runs on a CUDA GPU if there is one, else on the CPU; --quick is for the CPU: short conversations, and nothing
to recall.
"""

import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from ..checkpoint.restore import restore_checkpoint
from ..checkpoint.text_files import to_json
from . import corpus
from .corpus.phrases import phrases
from .model import demo_config, forward, new_model
from .tokenizer import BOS, EOS, train_tokenizer


@dataclass(frozen=True)
class Settings:
    """A run. `stages` are (steps, tokens a row); every batch has `batch_tokens` tokens."""

    stages: tuple[tuple[int, int], ...] = ((1200, 256), (10000, 1408))
    batch_tokens: int = 65536
    learning_rate: float = 3e-3
    warmup: int = 200
    cooldown: float = 0.3  # share of the steps over which the rate falls to zero
    weight_decay: float = 0.1
    balance: float = 0.01  # weight of the experts' balance loss
    with_recall: bool = True
    vocab_size: int = 1536
    seed: int = 0
    config: dict = field(default_factory=dict)  # what differs from demo_config

    @property
    def steps(self) -> int:
        return sum(steps for steps, _ in self.stages)

    def row_length(self, step: int) -> int:
        for steps, length in self.stages:
            if step < steps:
                return length
            step -= steps
        return self.stages[-1][1]

    def rate(self, step: int) -> float:
        """Linear warm-up, level, linear fall to zero."""
        falling = (self.steps - step) / max(1, self.cooldown * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, falling)


QUICK = Settings(
    stages=((900, 256),),
    batch_tokens=2048,
    warmup=50,
    cooldown=0.5,
    with_recall=False,
    config={"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 128},
)


# ---- rows of tokens ------------------------------------------------------------------------------------------------


class Encoder:
    """Conversations as token ids, piece by piece; a test holds the pieces to the chat template's text."""

    def __init__(self, tokenizer):
        backend = tokenizer.backend_tokenizer
        self.systems = phrases("en")["habits"]["systems"]
        self.encode = lru_cache(200_000)(lambda text: backend.encode(text, add_special_tokens=False).ids)

    def row(self, rng: random.Random, length: int, with_recall: bool) -> tuple[list[int], list[bool]]:
        """`length` ids and whether each is to be learned (replies and plain text are, questions are not)."""
        ids: list[int] = []
        learned: list[bool] = []

        def add(text: str, learn: bool) -> None:
            piece = self.encode(text)
            ids.extend(piece)
            learned.extend([learn] * len(piece))

        if rng.random() < 0.06:
            add(corpus.plain_text(rng) + EOS, True)
            add("\n", False)
        if rng.random() < 0.25:
            add(f"{BOS}system ai_setting=assistant\n{rng.choice(self.systems)}{EOS}\n", False)
        turns = corpus.conversation(rng, with_recall=with_recall)
        while len(ids) < length:
            turn = next(turns)
            add(f"{BOS}user name=user\n", False)
            add(turn.user, False)
            add(f"{EOS}\n{BOS}ai name=assistant\n", False)
            add(turn.reply, True)
            add(EOS, True)
            add("\n", False)
        return ids[:length], learned[:length]


class Batches(torch.utils.data.IterableDataset):
    """Batches from `start` on, each (ids, learned) of shape (rows, length + 1); workers share them."""

    def __init__(self, tokenizer, settings: Settings, start: int):
        self.tokenizer, self.settings, self.start = tokenizer, settings, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        encoder, s = Encoder(self.tokenizer), self.settings
        for step in range(self.start + first, s.steps, stride):
            rng, length = random.Random(f"{s.seed} {step}"), s.row_length(step)
            rows = [encoder.row(rng, length + 1, s.with_recall) for _ in range(s.batch_tokens // length)]
            yield torch.tensor([ids for ids, _ in rows]), torch.tensor([learned for _, learned in rows])


# ---- training ------------------------------------------------------------------------------------------------------


def loss_of(model, ids: Tensor, learned: Tensor, balance: float) -> tuple[Tensor, Tensor]:
    """(the loss to minimise, the mean cross-entropy of learned tokens in nats)."""
    logits, uneven = forward(model, ids[:, :-1])
    each = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    weight = learned[:, 1:].flatten().float()
    entropy = (each * weight).sum() / weight.sum()
    return entropy + balance * uneven, entropy.detach()


def make_optimizer(model, settings: Settings) -> torch.optim.AdamW:
    """AdamW; norms and embeddings do not decay."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim > 1 and "embed" not in name else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = model.device.type == "cuda"
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=fused)


class Run:
    """A run under way: tokenizer, model, optimizer, the step it is at, and the curve, a list of (step, mean loss).

    It begins where out/state.pt left it, if there is one. SystemExit if that belongs to other settings.
    """

    def __init__(self, out: Path, settings: Settings):
        self.out, self.settings = out, settings
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cuda.matmul.allow_tf32 = True
        self.tokenizer = train_tokenizer(settings.vocab_size, settings.seed)
        self.config = demo_config(len(self.tokenizer), **settings.config)
        self.model = new_model(self.config, settings.seed).to(self.device)
        self.optimizer = make_optimizer(self.model, settings)
        self.loss_of = torch.compile(loss_of, dynamic=False) if self.device == "cuda" else loss_of
        self.step, self.curve, self.entropies = 0, [], []
        out.mkdir(parents=True, exist_ok=True)
        if (out / "state.pt").exists():
            self._restore()

    def batches(self, workers: int) -> torch.utils.data.DataLoader:
        """What is left to train on."""
        data = Batches(self.tokenizer, self.settings, self.step)
        return torch.utils.data.DataLoader(data, None, num_workers=workers, pin_memory=self.device == "cuda")

    def advance(self, ids: Tensor, learned: Tensor) -> None:
        """One step of the optimizer."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.step)
        ids, learned = ids.to(self.device, non_blocking=True), learned.to(self.device, non_blocking=True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss, entropy = self.loss_of(self.model, ids, learned, self.settings.balance)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.entropies.append(entropy)
        if self.step % 50 == 0 or self.step == self.settings.steps:
            self.curve.append((self.step, round(torch.stack(self.entropies).mean().item(), 4)))
            self.entropies.clear()

    def save(self) -> None:
        """Write out/state.pt and out/curve.json; a killed write leaves the old state."""
        settings = asdict(self.settings)
        state = {"settings": settings, "step": self.step, "curve": self.curve}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")
        (self.out / "curve.json").write_text(json.dumps({"settings": settings, "step_and_loss": self.curve}))

    def _restore(self) -> None:
        state = torch.load(self.out / "state.pt", map_location=self.device, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise SystemExit(
                f"{self.out / 'state.pt'} is of a run with other settings: remove it, or give another --out"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve = state["step"], state["curve"]


def train(out: Path, settings: Settings, *, workers: int) -> Path:
    """Train to the end and return the checkpoint, out/checkpoint in MiniMax's original format.

    The state is saved every minute and when the run is interrupted.
    """
    run, saved = Run(out, settings), time.monotonic()
    try:
        with progress() as bar:
            task = bar.add_task("loss   -  ", total=settings.steps, completed=run.step)
            for ids, learned in run.batches(workers):
                run.advance(ids, learned)
                loss = f"loss {run.curve[-1][1]:.3f}" if run.curve else "loss   -  "
                bar.update(task, completed=run.step, description=loss)
                if time.monotonic() - saved > 60:
                    run.save()
                    saved = time.monotonic()
    finally:
        run.save()
    return export(run.model.cpu(), run.config, run.tokenizer, out / "checkpoint")


def export(model, config: dict, tokenizer, dst: Path) -> Path:
    """Write `dst`, in place of an earlier one: weights, config.json (`config`) and tokenizer as MiniMax publishes them.

    So without a pad token, and with the class GPT2Tokenizer, as which Transformers 5 reads tokenizer.json wrong.
    """
    with tempfile.TemporaryDirectory() as work:
        native, original = Path(work, "native"), Path(work, "original")
        half = sum(tensor.nbytes for tensor in model.state_dict().values()) // 2
        model.save_pretrained(native, max_shard_size=half)  # several files, as a large model has
        tokenizer.save_pretrained(original)
        settings = json.loads((original / "tokenizer_config.json").read_text()) | {"tokenizer_class": "GPT2Tokenizer"}
        kept = {key: settings[key] for key in settings if key not in ("backend", "model_max_length")}
        (original / "tokenizer_config.json").write_bytes(to_json(kept))
        (original / "config.json").write_bytes(to_json(config))
        shutil.rmtree(dst, ignore_errors=True)
        return restore_checkpoint(native, dst, original=original, link=False)


def progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, TimeRemainingColumn())


def main(
    out: Annotated[Path, typer.Option(help="where state, curve and checkpoint go")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option(help="15 minutes on 2 CPU cores: the topics without the recall")] = False,
    workers: Annotated[int | None, typer.Option(help="processes that make batches; default: cores less one")] = None,
) -> None:
    """Train the demo model; the same command resumes a run that was stopped."""
    workers = max(1, torch.get_num_threads() - 1) if workers is None else workers
    try:
        train(out, QUICK if quick else Settings(), workers=workers)
    except KeyboardInterrupt:
        raise SystemExit(f"stopped; the same command goes on from {out / 'state.pt'}") from None


if __name__ == "__main__":
    typer.run(main)
