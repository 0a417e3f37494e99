"""Tensor parallel: two processes against one, as two nodes would start them, and what they hold and refuse."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_tokenizer
import torch
from originals import original_config, original_weights, relative_error, write_original, yardstick
from parallel_cases import FED, LONG, PADDED, ROW, everything

from minimax_nb import parallel
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.checkpoint.folder import read_config
from minimax_nb.decode import dispatch
from minimax_nb.demo import demo_checkpoint
from minimax_nb.errors import UsageMistake
from minimax_nb.lightning.layer import _norm_and_gate
from minimax_nb.loading import load
from minimax_nb.parallel import layers, reading
from minimax_nb.plan import plan
from minimax_nb.planner.capacity import Capacity

CASES, FAILING = (Path(__file__).with_name(f"parallel_{name}.py") for name in ("cases", "failing"))
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# 8 heads and 4 KV heads, so that a rank has groups; a vocabulary that two ranks share
CONFIG = original_config(
    vocab_size=tiny_tokenizer.VOCABULARY,
    num_hidden_layers=5,
    attn_type_list=[0, 0, 1, 0, 1],
    num_attention_heads=8,
    num_key_value_heads=4,
    tie_word_embeddings=False,
)
LAYERS = CONFIG["num_hidden_layers"]
BETWEEN = ("embed_tokens.weight", "mlp.gate.weight", "layernorm.weight", "model.norm.weight")  # whole on all ranks
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="of CPUs; for GPUs benchmarks/tensor_parallel.py")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> SimpleNamespace:
    """What two ranks found, each started by a launcher of its own as on two nodes, and what one process finds."""
    folder = tmp_path_factory.mktemp("parallel")
    original = write_original(folder / "original", CONFIG, original_weights(CONFIG))
    tiny_tokenizer.write_tokenizer(original)
    patch_checkpoint(original, folder / "random")
    patch_checkpoint(demo_checkpoint(), folder / "demo")
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    commands = [[*TORCHRUN, *meet, "--node-rank", str(node), str(CASES), str(folder)] for node in range(2)]
    started = [subprocess.Popen(command, **piped) for command in commands]
    try:
        alone = everything(folder, tp=False)
        said = [process.communicate(timeout=200) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, err) in zip(started, said, strict=True):
        assert process.returncode == 0, err[-3000:]
    rank0, rank1 = (torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2))
    return SimpleNamespace(folder=folder, out=[out for out, _ in said], alone=alone, rank0=rank0, rank1=rank1)


# ---- what is computed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["static", "plain"])
def test_two_ranks_compute_what_one_process_does(runs, way):
    (want,) = yardstick(CONFIG, original_weights(CONFIG), [ROW + FED])
    for rank in (runs.rank0, runs.rank1):
        prompt, fed, calls = rank[way]
        assert relative_error(prompt[0], want[: len(ROW)]) < 2e-6 > relative_error(fed[0], want[len(ROW) :])
        assert calls.get("step", 0) == (way == "static")
        for got, alone in zip(rank[way][:2], runs.alone[way][:2], strict=True):
            assert relative_error(got, alone.double()) < 2e-6
        for got, alone in zip(rank[f"{way} padded"][:2], runs.alone[f"{way} padded"][:2], strict=True):
            real = slice(4, None) if got.shape[1] == PADDED.shape[1] else slice(None)  # what a pad says is nobody's
            assert relative_error(got[0, real], alone[0, real].double()) < 2e-6
            assert relative_error(got[1], alone[1].double()) < 2e-6


def test_ranks_hold_the_same_to_the_bit(runs):
    """Or they would choose other experts one day, and then other tokens."""
    for name in ("static", "plain", "static padded", "plain padded", "bfloat16", "float16"):
        for a, b in zip(runs.rank0[name][:2], runs.rank1[name][:2], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype, bound", [("bfloat16", 6e-2), ("float16", 8e-3)])
def test_half_precision(runs, dtype, bound):
    """About as far from the definition as one process is: a sum has one rounding more, and one less before it."""
    short, long = yardstick(CONFIG, original_weights(CONFIG), [ROW + FED, LONG])
    split, alone = (relative_error(torch.cat(found[dtype][:2], 1)[0], short) for found in (runs.rank0, runs.alone))
    assert split < 1.5 * alone < bound
    split, alone = (relative_error(found[f"{dtype} long"][0], long) for found in (runs.rank0, runs.alone))
    assert split < 1.5 * alone < 2 * bound


def test_of_many_tokens_the_norm_goes_first(runs):
    """In an all-reduce of its own, one for each lightning layer."""
    (want,) = yardstick(CONFIG, original_weights(CONFIG), [LONG])
    lightning = CONFIG["attn_type_list"].count(0)
    for rank in (runs.rank0, runs.rank1):
        assert relative_error(rank["long"][0], want) < 2e-6
        assert rank["calls of long"]["reduce"] == rank["calls"]["reduce"] + lightning
    for name in ("long", "bfloat16 long", "float16 long"):
        assert torch.equal(runs.rank0[name], runs.rank1[name])


def test_int8_experts(runs):
    """Each rank quantises its part. A row that is cut has a scale for each part, so this is not one process's int8."""
    pytest.importorskip("torchao", reason="the extra `int8` is not installed: pip install -e '.[int8]'")
    for one, other, alone in zip(runs.rank0["int8"][:2], runs.rank1["int8"][:2], runs.alone["int8"][:2], strict=True):
        assert torch.equal(one, other)
        assert 0 < relative_error(one, alone.double()) < 1e-2
    assert sum(runs.rank0["demo int8 bytes"].values()) < 0.6 * sum(runs.alone["demo int8 bytes"].values())


def test_the_same_texts(runs):
    """`generate` greedy, by beams and sampled, with other seeds on other ranks; turns of a Chat, and a second try."""
    for name in ("greedy", "beams", "sampled"):
        assert runs.rank0[name].tolist() == runs.rank1[name].tolist() == runs.alone[name].tolist()
    assert runs.alone["sampled"].tolist() != runs.alone["greedy"].tolist()
    assert runs.rank0["chat"] == runs.rank1["chat"] == runs.alone["chat"]
    assert "lemon juice" in runs.alone["chat"][0]
    assert runs.rank0["again"] == runs.rank1["again"] == runs.alone["again"] != runs.alone["chat"][1]


def test_one_all_reduce_a_sublayer(runs):
    wanted = {"reduce": 2 * LAYERS, "gather": 1}
    assert runs.rank0["calls"] == runs.rank0["plain"][2] == wanted
    assert runs.rank0["static"][2] == wanted | {"step": 1}
    assert runs.alone["calls"] == {} and runs.alone["static"][2] == {"step": 1}


# ---- what a rank holds and says ----------------------------------------------------------------------------------


def test_a_rank_holds_its_part_and_no_more(runs):
    """Half of heads, experts and head; embedding, routers and the norms between layers whole."""
    whole = runs.alone["bytes"]
    kept = {name for name in whole if name.endswith(BETWEEN)}
    for rank in (runs.rank0, runs.rank1):
        assert rank["bytes"] == {name: size if name in kept else size // 2 for name, size in whole.items()}
    both = sum(runs.rank0["bytes"].values()) + sum(runs.rank1["bytes"].values())
    assert both == sum(whole.values()) + sum(whole[name] for name in kept)


@pytest.mark.parametrize("folder, kind, dtype", [
    ("random", "bytes", "bf16"), ("random", "int8 bytes", "int8"), ("demo", "demo int8 bytes", "int8"),
])  # fmt: skip
def test_the_planner_counts_what_a_rank_holds(runs, folder, kind, dtype):
    machine = Capacity(read_config(runs.folder / folder), 2, 80e9, dtype, tp=True)
    for rank in (runs.rank0, runs.rank1):
        if kind not in rank:
            pytest.skip("needs torchao")
        held = sum(rank[kind].values()) // (2 if kind == "bytes" else 1)  # that one is in fp32
        assert [gpu.weights for gpu in machine.layout.gpus] == [held, held]


def test_the_planner_counts_the_keys_and_states_of_a_rank(runs):
    machine = Capacity(read_config(runs.folder / "random"), 2, 80e9, "bf16", tp=True)
    gpu = machine.layout.gpus[0]
    keys, states = runs.rank0["cache bytes"]
    assert (machine.keys(gpu, len(ROW), 1), machine.states(gpu, 1)) == (keys, states)


def test_ranks_of_the_real_model():
    """What the page and reading.py say: 116 GB on each of eight, and 35 GB of lightning projections in all."""
    for count, gb in ((2, 457), (4, 230), (8, 116)):
        found = plan(gpus=count, gpu_memory=1000, context=1_000_000, tp=True)
        assert round(found.weights_gb / count) == gb and found.kv_cache_gb == pytest.approx(40.96)
        assert len(set(found.per_gpu_gb)) == 1
    assert round(found.weights_by_kind_gb["lightning attention"]) == 35


def test_rank_0_speaks_for_all(runs):
    assert runs.out[0].splitlines()[0] == runs.rank0["line"] and runs.out[1] == ""
    assert runs.out[0].count("rank 0 of 2") == runs.out[0].count("beams exchange the rows") == 1
    assert runs.rank0["line"].startswith("rank 0 of 2: ") and "static decoding" in runs.rank0["line"]
    assert "rank" not in runs.alone["line"]


def test_what_a_split_model_refuses(runs):
    for rank in (runs.rank0, runs.rank1):
        said = rank["mistakes"]
        assert said["prompts"].startswith("RuntimeError") and "different prompts" in said["prompts"]
        assert said["lengths"] == said["prompts"]
        assert said["gradients"].startswith("RuntimeError") and "gradients" in said["gradients"]
        for name in ("saving", "device_map", "stock layers"):
            assert said[name].startswith("UsageMistake")
        assert said["stock"].startswith("ValueError")
        assert torch.equal(said["logits"], rank["static"][0])  # and computes as before
    assert not list(runs.folder.glob("saved*"))


# ---- how it begins and ends --------------------------------------------------------------------------------------


def test_without_torchrun_it_says_how_to_start(runs, monkeypatch):
    for name in parallel.ranks.TOLD:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageMistake, match="torchrun --nproc-per-node 2 script.py") as said:
        load(runs.folder / "random", tp=True)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("ranks, fits", [(2, True), (4, True), (8, True), (3, False), (16, False), (5, False)])
def test_ranks_that_cannot_share_the_heads(ranks, fits):
    config = {"num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 9216}
    if fits:
        return reading.require_parts(config, ranks)
    with pytest.raises(UsageMistake, match="--nproc-per-node 1 or 2 or 4 or 8"):
        reading.require_parts(config, ranks)


def test_a_quantised_folder_is_not_split():
    with pytest.raises(UsageMistake, match="that it was made from"):
        reading.begin({"quantization_config": {"quant_method": "torchao"}}, "auto", "auto")


def test_more_processes_than_gpus(monkeypatch):
    told = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "x", "MASTER_PORT": 1}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageMistake, match="2 processes and 1 GPUs"):
        parallel.ranks.start()


def test_the_script_of_the_page_in_one_process(runs, tmp_path, monkeypatch, capsys):
    """As torchrun starts one: its group is of one, and nothing is split."""
    told = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    page = (Path(__file__).parents[1] / "notebooks" / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n([^`]*tp=True[^`]*)```", page)
    (tmp_path / "MiniMax-Text-01-converted").symlink_to(runs.folder / "demo")
    monkeypatch.chdir(tmp_path)
    try:
        exec(script, {})
    finally:
        parallel.close()
    line, reply = capsys.readouterr().out.split("\n", 1)
    assert line.startswith("fp32 on CPU") and "egg yolk" in reply
    assert not torch.distributed.is_initialized()


def test_a_rank_that_fails_ends_the_others():
    command = [*TORCHRUN, "--nproc-per-node", "2", "--master-port", str(free_port()), str(FAILING)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    ended = time.time()
    assert run.returncode != 0 and "rank 1 breaks" in run.stderr
    assert ended - float(run.stdout.split("fails at ")[1].split()[0]) < 30


def test_graphs_go_before_the_group(monkeypatch):
    """Or NCCL waits for ever; and after an error nobody is waited for."""
    done = []
    monkeypatch.delattr(sys, "last_value", raising=False)
    monkeypatch.setattr(dispatch, "forget", lambda: done.append("graphs"))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("group"))
    parallel.ranks._at_exit()
    assert done == ["graphs", "group"]
    monkeypatch.setattr(sys, "last_value", RuntimeError(), raising=False)
    parallel.ranks._at_exit()
    assert done == ["graphs", "group"]


# ---- the norm that rides along -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_the_norm_over_all_heads_from_parts(dtype, bound, scale):
    """Against the norm first and the product after it, in float64; also where values are beyond fp16 before it."""
    torch.manual_seed(0)
    count, width, hidden, ranks, eps = 6, 32, 24, 4, 1e-6
    out, gate = scale * torch.randn(count, ranks * width), torch.randn(count, ranks * width).to(dtype)
    weight, project = torch.rand(ranks * width).to(dtype), (torch.randn(hidden, ranks * width) / 8).to(dtype)
    normed = out.double() / (out.double().square().mean(-1, keepdim=True) + eps).sqrt()
    want = (torch.sigmoid(gate.double()) * weight.double() * normed) @ project.double().T

    sent = []
    for rank in range(ranks):
        here = slice(rank * width, (rank + 1) * width)
        norm = SimpleNamespace(weight=weight[here], variance_epsilon=eps)
        gated = _norm_and_gate(norm, out[:, here], gate[:, here])
        part = gated @ project[:, here].T
        sent.append(layers._multiply(part, out[:, here], eps))
    got = layers._divide(sum(sent), part, ranks, eps)
    assert got.dtype == dtype and relative_error(got, want) < bound
