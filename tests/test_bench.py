"""The benchmark: what it measures and in which order, that its figures are what they say, and that nothing is lost."""

import itertools
import json
import os
import shlex
import threading
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minimax_nb import cli
from minimax_nb.bench import clock, floor, results
from minimax_nb.bench import measure as bench
from minimax_nb.bench import plan as bench_plan
from minimax_nb.cache import repair_cache
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.demo import demo_checkpoint
from minimax_nb.errors import UsageMistake
from minimax_nb.lightning import use_lightning

RATES = {"read_bytes_s": 1e9, "matrix_ops_s": 1e9}
TOY = ["bench", "--toy", "--lengths=8,16", "--batch=1,2", "--repeats=1"]
SMALL = bench_plan.Plan([8, 16], [1, 2], ["sdpa", "eager"], ["torch", "stock"], ["float32", "bfloat16"], 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No seconds for matrix products, few steps, and no GPU if there is one."""
    monkeypatch.setattr(bench, "rates", lambda device, dtype: RATES)
    monkeypatch.setattr(bench, "STEPS", 1)
    monkeypatch.setattr(bench, "ERROR_LENGTH", 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        made = bench.random_model(toy=True, dtype="float32")
    repair_cache()
    use_lightning(made, "torch")
    return made


def case(**changes) -> bench_plan.Case:
    return bench_plan.Case("float32", "sdpa", "torch", "prefill", 1, 8)._replace(**changes)


# What is measured


def test_the_base_comes_first_and_one_thing_is_varied_at_a_time():
    found = bench_plan.cases(SMALL)
    assert found[0] == case() and len(set(found)) == len(found)
    settings = list(dict.fromkeys(row[:3] for row in found))
    assert settings == [
        ("float32", "sdpa", "torch"),
        ("float32", "eager", "torch"),
        ("float32", "sdpa", "stock"),
        ("bfloat16", "sdpa", "torch"),
        ("bfloat16", "eager", "torch"),
    ]


def test_prompts_of_several_sequences_are_prefilled_at_the_shortest_length_only():
    found = [row[3:] for row in bench_plan.cases(SMALL) if row[:3] == ("float32", "sdpa", "torch")]
    assert [row for row in found if row[0] == "prefill"] == [("prefill", 1, 8), ("prefill", 1, 16), ("prefill", 2, 8)]
    assert [row[1:] for row in found if row[0] == "decode"] == [(1, 8), (1, 16), (2, 8), (2, 16)]


@pytest.mark.parametrize("flag, message", [
    ("--lengths=8,zero", "'zero' is no whole number"),
    ("--lengths=0", "'0' is no whole number"),
    ("--batch=1.5", "'1.5' is no whole number"),
    ("--attention=sdap", "'sdap' is none of sdpa_by_length, sdpa, eager"),
    ("--lightning=auto", "'auto' is none of fused"),
    ("--dtype=fp8", "'fp8' is none of float32"),
    ("--json=nowhere/at/all.json", "is not a folder"),
])  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, flag, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*TOY, flag]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_a_folder_is_not_of_toy_size(tmp_path, capsys):
    assert cli.main([*TOY, str(tmp_path)]) == 2
    assert "leave out one of the two" in capsys.readouterr().err


def test_the_command_written_down_measures_the_same_plan():
    line = bench_plan.command(None, True, SMALL)
    name, verb, toy, *flags = shlex.split(line)
    assert (name, verb, toy) == ("minimax-nb", "bench", "--toy")
    given = dict(flag.removeprefix("--").split("=") for flag in flags)
    given["repeats"] = int(given["repeats"])
    names = {"batch": "batches", "dtype": "dtypes"}
    assert bench_plan.planned(None, True, {names.get(name, name): value for name, value in given.items()}) == SMALL


def test_real_width_needs_room(monkeypatch):
    with pytest.raises(UsageMistake, match="needs a GPU with 110 GB free: give --toy"):
        bench.random_model(toy=False, dtype="bfloat16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (80 * 10**9, 80 * 10**9))
    with pytest.raises(UsageMistake, match="needs a GPU"):
        bench.random_model(toy=False, dtype="bfloat16")


def test_the_default_on_a_gpu_is_half_precision_with_the_fused_kernels(monkeypatch):
    assert bench_plan.default_plan(small=True).dtypes == ["float32"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(bench_plan, "has_fused", lambda: True)
    plan = bench_plan.default_plan(small=False)
    assert plan.dtypes == ["bfloat16"] and plan.lightning == ["fused", "torch", "stock"]
    assert plan.lengths[-1] == 131072 and plan.batches == [1, 16]


# A run


def run(tmp_path, *flags) -> dict:
    assert cli.main([*TOY, "--json", str(tmp_path / "found.json"), *flags]) == 0
    return json.loads((tmp_path / "found.json").read_text())


def test_a_run_has_all_rows_and_says_what_it_ran_on(tmp_path, capsys):
    found = run(tmp_path, "--attention=sdpa,eager,flash_attention_2", "--lightning=torch,stock")
    assert found["complete"] and found["command"].startswith("minimax-nb bench --toy --lengths=8,16")
    assert found["device"].startswith("CPU") and found["versions"]["torch"] == torch.__version__
    assert found["model"]["source"].endswith("toy size") and found["model"]["lightning_layers"] == 7
    assert found["flash_attention"]["runs"] is False

    *rows, absent = sorted(found["rows"], key=lambda row: row["status"] == "not run")
    assert absent["attention"] == "flash_attention_2" and "needs an NVIDIA GPU" in absent["why"]
    assert len(rows) == 3 * 7 and {row["status"] for row in rows} == {"ok"}
    for row in rows:
        assert 0 < row["least_ms"] <= row["ms"] <= row["most_ms"]
        assert all(row["kinds"][kind] > 0 for kind in clock.KINDS) and "peak_gb" not in row
        assert row["floor_ms"] == pytest.approx(sum(row["floor"].values()), abs=1e-3)
    assert {(row["attention"], row["kernel"]) for row in rows} == {("sdpa", "flash_attention"), ("eager", "eager")}
    header, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found["rows"]) and "tokens" in header
    for name in ("what", "attention", "lightning", "dtype"):  # each column stands below its name
        at, row = header.index(name), found["rows"][0]
        assert lines[0][at:].startswith({"dtype": "fp32"}.get(name) or row[name]), name


def test_a_converted_folder_is_measured_too(tmp_path):
    folder = patch_checkpoint(demo_checkpoint(), tmp_path / "demo")
    path = tmp_path / "found.json"
    flags = ["--lengths=8", "--batch=1", "--repeats=1", "--attention=sdpa", "--lightning=torch", "--dtype=fp32,bf16"]
    assert cli.main(["bench", str(folder), *flags, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["model"]["source"] == "demo" and {row["dtype"] for row in found["rows"]} == {"float32", "bfloat16"}
    assert str(tmp_path) in found["command"]


def test_without_memory_a_row_says_so_and_longer_ones_are_not_tried(monkeypatch, tmp_path):
    tried, real = [], bench.prepared

    def prepared(model, row):
        tried.append(row)
        if row.attention == "eager" and row.what == "prefill" and row.length > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 32.00 GiB.\nmore")
        return real(model, row)

    monkeypatch.setattr(bench, "prepared", prepared)
    flags = ("--attention=sdpa,eager", "--lightning=torch", "--lengths=8,16,32")
    rows = [row for row in run(tmp_path, *flags)["rows"] if row["attention"] == "eager" and row["batch"] == 1]
    said = {(row["what"], row["length"]): row["status"] for row in rows}
    assert said["prefill", 8] == said["decode", 32] == "ok"
    assert said["prefill", 16] == said["prefill", 32] == "out of memory"
    whys = [row["why"] for row in rows if row["status"] != "ok"]
    assert whys[0].endswith("Tried to allocate 32.00 GiB.") and "16 tokens were too many" in whys[1]
    assert not [row for row in tried if row.attention == "eager" and row.what == "prefill" and row.length == 32]


def test_a_row_that_fails_is_told_and_the_others_are_kept(monkeypatch, tmp_path, capsys):
    real = bench.prepared

    def prepared(model, row):
        if row.what == "decode":
            raise RuntimeError("no kernel for this")
        return real(model, row)

    monkeypatch.setattr(bench, "prepared", prepared)
    path = tmp_path / "found.json"
    assert cli.main([*TOY, "--attention=sdpa", "--lightning=torch", "--json", str(path)]) == 1
    assert "failed (RuntimeError: no kernel for this)" in capsys.readouterr().out
    assert [row["status"] for row in json.loads(path.read_text())["rows"]] == ["ok"] * 3 + ["failed"] * 4


def test_a_lost_gpu_ends_the_run_and_wrong_logits_are_told(monkeypatch, tmp_path, capsys):
    real = bench.prepared

    def prepared(model, row):
        if row.length > 8:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        call = real(model, row)
        return lambda: SimpleNamespace(logits=call().logits * float("nan"))

    monkeypatch.setattr(bench, "prepared", prepared)
    monkeypatch.setattr(bench, "lost_gpu", lambda clock: True)
    path = tmp_path / "found.json"
    assert cli.main([*TOY, "--attention=sdpa", "--lightning=torch", "--json", str(path)]) == 1
    found = json.loads(path.read_text())
    assert [row["status"] for row in found["rows"]] == ["not finite", "failed"] and not found["complete"]
    assert "the logits hold inf or nan" in capsys.readouterr().out


def test_a_gpu_is_lost_if_it_can_no_longer_be_used(monkeypatch, model):
    def broken(index):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    timer = clock.Clock(model)
    assert not bench.lost_gpu(timer)
    timer.on_gpu = True
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    assert bench.lost_gpu(timer)


def test_an_interrupted_run_keeps_its_rows(monkeypatch, tmp_path, capsys):
    left, real = iter([True, True, False]), bench.prepared

    def prepared(model, row):
        if next(left):
            return real(model, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "prepared", prepared)
    path = tmp_path / "found.json"
    assert cli.main([*TOY, "--json", str(path)]) == 130
    found = json.loads(path.read_text())
    assert [row["status"] for row in found["rows"]] == ["ok", "ok"] and not found["complete"]
    assert capsys.readouterr().err == "minimax-nb: interrupted\n"


def test_the_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "found.json"
    found = results.Results(path, "a command")
    found.add("rows", {"ms": 1})
    with pytest.raises(TypeError):
        found.add("rows", {"ms": object()})  # writing breaks off
    found.found["rows"] = [{"ms": 2}]

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        found.save()
    monkeypatch.undo()
    assert json.loads(path.read_text())["rows"] == [{"ms": 1}] and os.listdir(tmp_path) == ["found.json"]

    def interrupted(self, text):
        self.write_bytes(text[:100].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(results.Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found.save()
    assert json.loads(path.read_text())["rows"] == [{"ms": 1}] and os.listdir(tmp_path) == ["found.json"]


def test_places_that_are_no_file(tmp_path):
    with pytest.raises(UsageMistake, match="is not a folder"):
        results.Results(tmp_path / "no" / "found.json", "a command")
    with pytest.raises(UsageMistake, match="is a folder"):
        results.Results(tmp_path, "a command")
    assert os.listdir(tmp_path) == []


def test_a_link_stays_one_and_its_file_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("there.json", "not_yet.json"):
        link, target = tmp_path / name, tmp_path / "elsewhere" / name
        link.symlink_to(target)
        if name == "there.json":
            target.write_text("{}")
        results.Results(link, "a command").add("rows", {"ms": 1})
        assert link.is_symlink() and json.loads(target.read_text())["rows"] == [{"ms": 1}]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
def test_a_pipe_is_written_through_once(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with results.Results(pipe, "a command") as found:
        found.add("rows", {"ms": 1})
        found.add("rows", {"ms": 2})
    reader.join(20)
    assert json.loads(read[0])["rows"] == [{"ms": 1}, {"ms": 2}]
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_device_that_takes_nothing_is_one_line(capsys):
    assert cli.main(["bench", "--toy", "--lengths=8", "--batch=1", "--repeats=1", "--json", "/dev/full"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "No space left" in err and os.path.exists("/dev/full")


def test_json_goes_to_stdout_for_a_dash(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = ["--toy", "--lengths=8", "--batch=1", "--repeats=1", "--attention=sdpa", "--lightning=torch"]
    assert cli.main(["bench", *flags, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["rows"]) == 2 and "ms" in err and os.listdir(tmp_path) == []


def test_the_results_name_the_gpu(monkeypatch):
    said = {"is_available": True, "device_count": 2, "get_device_name": "H200", "get_device_capability": (9, 0)}
    said |= {"mem_get_info": (40 * 10**9, 151 * 10**9)}
    for name, value in said.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    found = results.Results(None, "a command").found
    assert (found["device"], found["gpus"], found["memory_gb"]) == ("H200", 2, 151.0)
    assert json.loads(json.dumps(found))["flash_attention"]["capability"] == [9, 0]


def test_the_frequencies_of_the_rotation_stay_in_fp32():
    made = bench.random_model(toy=True, dtype="float32")
    before = made.model.rotary_emb.inv_freq.clone()
    bench.change_dtype(made, "bfloat16")
    assert made.dtype == torch.bfloat16 and made.model.layers[0].self_attn.slope_rate.dtype == torch.bfloat16
    assert made.model.rotary_emb.inv_freq.dtype == torch.float32 and made.model.rotary_emb.inv_freq.equal(before)


# Time


@pytest.fixture
def ticking(monkeypatch):
    """A clock that goes on by one millisecond whenever it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(ticks) / 1000)


def test_time_is_split_by_kind_of_layer(model, ticking):
    spent = clock.Clock(model).split(lambda: model(torch.tensor([[1, 2, 3]])))
    # 7 lightning layers, 1 softmax layer and 8 of experts are looked at twice each: 33 ticks from first to last
    assert spent == pytest.approx({"lightning": 7, "softmax": 1, "experts": 8, "rest": 33 - 16})


def test_hooks_are_gone_after_a_split_even_if_it_fails(model):
    def fail():
        model(torch.tensor([[1, 2, 3]]))
        raise RuntimeError

    def hooks() -> list:
        return [(*module._forward_hooks, *module._forward_pre_hooks) for module in model.modules()]

    before = hooks()
    with pytest.raises(RuntimeError):
        clock.Clock(model).split(fail)
    assert hooks() == before


def test_slow_calls_are_repeated_less(monkeypatch, model):
    calls = []
    timer = clock.Clock(model)
    monkeypatch.setattr(timer, "split", lambda call: dict.fromkeys(clock.KINDS, 1.0))
    for each, repeats in ((10, 20), (2000, 3)):
        ticks = itertools.count(0, each / 1000)
        monkeypatch.setattr(clock.time, "perf_counter", lambda ticks=ticks: next(ticks))
        found = timer.measure(lambda: calls.append(each), repeats=20)  # noqa: B023
        assert found["repeats"] == repeats == calls.count(each) and found["ms"] == pytest.approx(each)


def test_median_and_spread(monkeypatch, model):
    timer, times = clock.Clock(model), iter([5.0, 1.0, 2.0])
    monkeypatch.setattr(timer, "time", lambda call: next(times))
    monkeypatch.setattr(timer, "split", lambda call: dict.fromkeys(clock.KINDS, 1.0))
    found = timer.measure(None, repeats=3)
    assert (found["ms"], found["least_ms"], found["most_ms"]) == (2, 1, 5)


def test_a_gpu_is_timed_by_events_and_several_by_waiting(monkeypatch):
    class Event:
        recorded = 0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            Event.recorded += 1
            self.at = Event.recorded

        def synchronize(self):
            self.done = True

        def elapsed_time(self, end):
            assert end.done  # else the device may still be computing
            return 10.0 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    timer = clock.Clock(nn.Module(), torch.device("cuda", 0))
    assert timer.on_gpu and timer.events and timer.time(lambda: None) == 10

    waited = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    devices = [SimpleNamespace(device=torch.device("cuda", index)) for index in (0, 1)]
    timer = clock.Clock(SimpleNamespace(parameters=lambda: devices))
    timer.time(lambda: None)
    assert timer.on_gpu and not timer.events and waited == [0, 1, 0, 1]


# Memory


def test_memory_is_the_peak_of_the_calls_and_what_they_added(monkeypatch, model):
    said = {"memory_allocated": 5 * 10**9, "max_memory_allocated": 8 * 10**9, "reset_peak_memory_stats": None}
    for name, value in said.items():
        monkeypatch.setattr(torch.cuda, name, lambda index, value=value: value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    timer = clock.Clock(model)
    monkeypatch.setattr(timer, "measure", lambda call, repeats: {"ms": 1.0})
    timer.on_gpu = True
    row = bench.measured(model, timer, case(), 1, RATES)
    assert (row["peak_gb"], row["extra_gb"]) == (16, 6)


# Attention kernels and experts


def test_the_kernel_that_sdpa_picks_is_named():
    q = torch.randn(1, 2, 4, 8)
    real = F.scaled_dot_product_attention
    with clock.sdpa_kernels() as names:
        F.scaled_dot_product_attention(q, q, q, is_causal=True)
        assert names == {"flash_attention"}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            F.scaled_dot_product_attention(q, q, q, attn_mask=None, dropout_p=0.0, scale=1.0, is_causal=False)
        assert names == {"flash_attention", "math"}
    assert F.scaled_dot_product_attention is real
    assert bench.kernel("sdpa", names) == "flash_attention, math" and bench.kernel("eager", set()) == "eager"


def test_the_experts_that_were_chosen_are_counted(model):
    with torch.inference_mode(), clock.experts_used(model) as used:
        model(torch.tensor([[7]]))
    assert list(used.values()) == [2] * 8
    with torch.inference_mode(), clock.experts_used(model) as used:
        model(torch.arange(64)[None])
    assert all(2 < count <= 4 for count in used.values())


@torch.inference_mode()
def test_an_attention_that_computes_something_else_is_seen(model, monkeypatch):
    torch.manual_seed(0)
    model.set_attn_implementation("eager")
    assert bench.attention_error(model) == {"percent": 0}
    model.set_attn_implementation("sdpa")
    assert 0 < bench.attention_error(model)["percent"] < 1e-3
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *args, **kwargs: real(*args, **kwargs | {"is_causal": False})
    )
    assert bench.attention_error(model)["percent"] > 10


@pytest.mark.parametrize("lightning, dtype", [("torch", torch.float32), ("stock", torch.bfloat16)])
def test_decoding_goes_on_from_a_cache_of_that_length(lightning, dtype):
    made = bench.random_model(toy=True, dtype="bfloat16")
    use_lightning(made, lightning)
    cache = bench.filled_cache(made, case(what="decode", batch=2, length=50, lightning=lightning))
    assert cache.get_seq_length() == 50 and cache.get_linear_cache(0).dtype == dtype
    with torch.inference_mode():
        assert made(torch.tensor([[1], [2]]), past_key_values=cache).logits.isfinite().all()
    assert cache.get_seq_length() == 51 and cache.get_linear_cache(0).dtype == dtype


# The floor, from the sizes of the toy: 8 heads and 2 KV heads of 32, 256 wide, 4 experts of 64, vocabulary 512


def parts(model, bytes_count: bool, **changes) -> dict[str, float]:
    """Bytes or operations, by letting the other cost nothing."""
    best = {"read_bytes_s": 1e3, "matrix_ops_s": 1e30} if bytes_count else {"read_bytes_s": 1e30, "matrix_ops_s": 1e3}
    sizes = {"batch": 1, "new": 1, "past": 100, "state_bytes": 4} | changes
    used = {router: 2 for router in model.modules() if isinstance(router, clock.MiniMaxTopKRouter)}
    return floor.floor(model, **sizes, experts=used, best=best)


LIGHTNING, SOFTMAX = 256 * 256 * 5, 256 * 256 * 2 + 256 * 64 * 2  # weights of the projections
EXPERT, GATE, STATE = 3 * 256 * 64, 4 * 256, 8 * 32 * 32


def test_bytes_of_a_decode_step(model):
    found = parts(model, True)
    assert found["lightning"] == 7 * (4 * (LIGHTNING + 256) + 2 * 4 * STATE)  # and the norm; read and written
    assert found["softmax"] == 4 * (SOFTMAX + 2 * 101 * 2 * 32)
    assert found["experts"] == 8 * 4 * (GATE + 2 * EXPERT)
    assert found["rest"] == 4 * (512 * 256 + 17 * 256)  # the head and the norms, not the embedding
    more = parts(model, True, batch=3)
    assert more["softmax"] == 4 * (SOFTMAX + 3 * 2 * 101 * 2 * 32) and more["experts"] == found["experts"]
    assert parts(model, True, past=0)["lightning"] == found["lightning"] - 7 * 4 * STATE


def test_operations_of_a_prefill(model):
    found = parts(model, False, batch=2, new=10, past=0)
    assert found["lightning"] == 2 * 7 * 10 * (2 * (LIGHTNING + 256) + 4 * STATE)
    assert found["softmax"] == 2 * (2 * 10 * SOFTMAX + 4 * 55 * 8 * 32)  # 55 pairs, of 10 causal tokens
    assert found["experts"] == 8 * 2 * 20 * (GATE + 2 * EXPERT)
    assert found["rest"] == 2 * 2 * 512 * 256  # the head sees the last token of each


def test_each_kind_takes_the_longer_of_the_two(model):
    best = {"read_bytes_s": 1e3, "matrix_ops_s": 1e30}
    used = {router: 2 for router in model.modules() if isinstance(router, clock.MiniMaxTopKRouter)}
    sizes = {"batch": 1, "new": 1, "past": 100, "state_bytes": 4, "experts": used}
    slow = floor.floor(model, **sizes, best=best | {"matrix_ops_s": 1.0})
    assert slow == parts(model, False) | {kind: 1000 * x for kind, x in parts(model, False).items()}


def test_rates_are_of_this_device():
    found = floor.rates(torch.device("cpu"), torch.float32)
    assert 1e8 < found["read_bytes_s"] < 1e13 and 1e8 < found["matrix_ops_s"] < 1e15


def test_operations_are_those_that_were_asked_for_in_order_and_within_the_whole(capfd):
    x, weight = torch.randn(2, 8), torch.randn(4, 8)
    found, ms = clock.operations(lambda: F.silu(F.linear(x, weight)).softmax(-1) + 1)
    assert [name for name, *_ in found] == ["linear", "silu", "softmax", "add"]  # not what linear asks for in its turn
    times = [time for _, *span in found for time in span]
    assert times == sorted(times) and 0 <= times[0] and times[-1] <= ms
    assert capfd.readouterr().err == ""


def test_an_error_of_what_is_watched_is_seen(capfd):
    with pytest.raises(ValueError, match="of its own"):
        clock.operations(lambda: (_ for _ in ()).throw(ValueError("of its own")))
    os.write(2, b"here")
    assert capfd.readouterr().err == "here"
