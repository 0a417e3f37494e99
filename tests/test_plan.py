"""The planner: its arithmetic against memory measured on GPUs, its placement, its words; and load(), which asks it."""

import importlib
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from originals import original_config, original_weights, write_original
from tiny_tokenizer import VOCABULARY, write_tokenizer
from transformers.integrations import accelerate

import minimax_nb
from minimax_nb import cli, loading
from minimax_nb import plan as exported
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.config import patch_config
from minimax_nb.decode.dispatch import _state
from minimax_nb.demo import demo_checkpoint
from minimax_nb.errors import CheckpointError, ConfigError, UsageMistake
from minimax_nb.original import original_config as text_01
from minimax_nb.plan import Plan, advice_here, plan, table
from minimax_nb.planner import capacity, placement
from minimax_nb.planner.capacity import GB, RESERVE, Capacity

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
KEYS = {
    "weights_gb",
    "kv_cache_gb",
    "lightning_state_gb",
    "workspace_gb",
    "total_gb",
    "per_gpu_gb",
    "fits",
    "max_context",
}
PERIOD = patch_config(text_01(num_hidden_layers=8))  # what the GPUs held that were measured
MEASURED = json.loads((NOTEBOOKS / "results" / "flash_attention_h200.json").read_text())


def planned(**changes) -> Plan:
    return plan(**({"gpus": 8, "gpu_memory": 141, "context": 131072} | changes))


# Figures


def rows():
    """Measured rows of the attention and lightning layers that load() takes; in fp16 no longer pieces than it takes."""
    found = []
    for row in MEASURED["rows"]:
        ours = row["attention"] == "sdpa_by_length" and row["lightning"] == "fused" and row["status"] == "ok"
        if ours and not (row["dtype"] == "float16" and row["what"] == "prefill" and row["length"] > 16384):
            found.append(pytest.param(row, id=f"{row['dtype']} {row['what']} {row['batch']} x {row['length']}"))
    return found


@pytest.mark.parametrize("row", rows())
def test_the_peak_of_a_pass_is_within_3_percent_of_what_was_measured(row):
    dtype = {"bfloat16": "bf16", "float16": "fp16"}[row["dtype"]]
    machine = Capacity(
        PERIOD, 1, MEASURED["memory_gb"] * GB, dtype, expert_kernels=False
    )  # Transformers' experts, then
    piece = row["length"] if row["what"] == "prefill" else 1
    (needed,) = machine.needed(row["length"], row["batch"], static=False, piece=piece)
    assert needed / GB == pytest.approx(row["peak_gb"], rel=0.03)
    beside = needed / GB - MEASURED["model"]["weights_gb"]  # the weights are most of it, so what is beside them too
    assert beside == pytest.approx(row["peak_gb"] - MEASURED["model"]["weights_gb"], rel=0.3)


def test_two_gpus_hold_and_load_what_was_measured():
    two = json.loads((NOTEBOOKS / "results" / "load_two_gpus.json").read_text())
    model = placement.skeleton(PERIOD)
    lay = placement.place(model, {0: 85 * GB, 1: 85 * GB}, "balanced")  # as Transformers cuts, and load() did then
    weights = {name: weight.nbytes for name, weight in model.named_parameters()}
    gpus = capacity._described(model, lay, weights, 2, True, "bf16").gpus
    machine = Capacity(PERIOD, 2, 85 * GB, "bf16")
    machine.layout = machine.layout._replace(gpus=gpus)
    assert [gpu.layers for gpu in gpus] == two["layers_on_gpu"]
    assert [gpu.weights for gpu in gpus] == pytest.approx(two["gpu_bytes"], rel=1e-6)
    assert machine.loading() == pytest.approx(two["gpu_peak_bytes_while_loading"], rel=1e-6)


def test_published_figures():
    found = planned(context=1_000_000)
    assert round(found.weights_gb) == 912
    assert found.kv_cache_gb == pytest.approx(40.96) and round(found.kv_cache_gb / 1.024**3, 1) == 38.1
    assert found.lightning_state_gb == pytest.approx(70 * 64 * 128 * 128 * 4 / 1e9)
    assert found.fits  # bf16 on 8 x 141 GB: a million, as MiniMax says
    for tp in (False, True):
        assert planned(gpu_memory=80, dtype="int8", context=2_000_000, tp=tp).fits  # MiniMax: up to two million


def test_int8_experts_take_a_byte_and_five_for_each_row():
    whole, int8 = planned(), planned(dtype="int8")
    rows_of_a_layer = 32 * (2 * 9216 + 6144)
    want = whole.weights_by_kind_gb["experts"] / 2 + 80 * rows_of_a_layer * 5 / 1e9
    assert int8.weights_by_kind_gb["experts"] == pytest.approx(want)
    kinds = set(whole.weights_by_kind_gb) - {"experts"}
    assert all(int8.weights_by_kind_gb[kind] == whole.weights_by_kind_gb[kind] for kind in kinds)
    assert planned(dtype="fp16").weights_gb == whole.weights_gb == pytest.approx(sum(whole.weights_by_kind_gb.values()))


def test_int8_experts_take_what_load_holds(converted):
    pytest.importorskip("torchao")
    model, _ = loading.load(converted, experts="int8", dtype="bfloat16", device_map="cpu")
    parts, held = ("qdata", "scale", "zero_point"), 0
    for weight in model.parameters():
        held += sum(getattr(weight, part).nbytes for part in parts) if hasattr(weight, "qdata") else weight.nbytes
    found = plan(converted, gpus=1, gpu_memory=8, dtype="int8", context=100)
    assert round(found.weights_gb * GB) == held


@pytest.mark.parametrize("change", [{}, {"batch": 4}, {"dtype": "int8"}, {"gpu_memory": 80}, {"context": 3_000_000}])
def test_the_parts_add_up(change):
    found = planned(**change)
    parts = found.weights_gb + found.kv_cache_gb + found.lightning_state_gb + found.workspace_gb
    assert found.total_gb == pytest.approx(parts) == pytest.approx(sum(found.per_gpu_gb))
    assert found.kv_cache_gb == pytest.approx(10 * 4096 * found.context * found.batch / 1e9)
    assert sum(found.layers_per_gpu) == 80
    assert found.fits == (found.spare_gb >= 0) == (found.max_context >= found.context)


def test_the_longest_context_is_the_last_that_fits():
    found = planned()
    for context, fits, decoding in (
        (found.max_context, True, "plain"),
        (found.max_context + 1, False, "plain"),
        (found.max_static_context, True, "static"),
        (found.max_static_context + 1, True, "plain"),
    ):
        at = planned(context=context)
        assert (at.fits, at.decoding) == (fits, decoding)
        assert max(at.per_gpu_gb) <= 141 - RESERVE / GB or not fits


def test_static_keys_have_room_for_a_power_of_two():
    """Beside the cache that they are copied from: one token more can double them."""
    before, after = planned(gpu_memory=192, context=2**20 - 1), planned(gpu_memory=192, context=2**20)
    assert before.decoding == after.decoding == "static"
    assert after.total_gb - before.total_gb == pytest.approx(10 * 4096 * 2**20 / 1e9, rel=0.02)


def test_static_decoding_takes_the_buffers_that_are_counted(converted):
    model, _ = loading.load(converted, dtype="bfloat16", device_map="cpu")
    model.generate(torch.full((3, 1100), 5), attention_mask=torch.ones(3, 1100), max_new_tokens=3, eos_token_id=[])
    buffers = _state(model).decoder.buffers
    held = [*buffers.states.values(), *(tensor for pair in buffers.keys.values() for tensor in pair)]
    machine = Capacity(loading._converted_config(converted), 1, 8 * GB, "bf16")
    (gpu,) = machine.layout.gpus
    assert sum(tensor.nbytes for tensor in held) == machine.keys(gpu, 2048, 3) + machine.states(gpu, 3)


# Placement


def test_a_gpu_that_gets_no_layer_needs_nothing():
    found = plan(gpus=16, gpu_memory=141, context=1000)
    assert 0 in found.layers_per_gpu
    pairs = zip(found.per_gpu_gb, found.layers_per_gpu, strict=True)
    assert all((gb > 0) == (layers > 0) for gb, layers in pairs)


def test_a_map_is_spelled_out():
    spelled = placement.spelled_out({"": 0}, 2)
    assert spelled == dict.fromkeys(["model.embed_tokens", "model.layers.0", "model.layers.1", *placement.ENDS[1:]], 0)
    spelled = placement.spelled_out({"model": 0, "model.layers.1": 1, "lm_head": 1, "model.layers.10.mlp": "cpu"}, 12)
    assert [spelled[f"model.layers.{i}"] for i in (0, 1, 10, 11)] == [0, 1, "cpu", 0] and spelled["lm_head"] == 1


def test_every_device_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: ["H100", "H100", "A100"][index])
    split = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "model.layers.2": "cuda:2"}
    split |= {"model.layers.3": "cpu", "model.layers.4": "disk", "lm_head": 2}
    assert placement.named(split, 5) == "H100 x 2, A100, CPU (1 of 5 layers), disk (1 of 5 layers)"
    assert (
        placement.named({"": 0}, 5)
        == placement.named("cuda", 5)
        == placement.named(torch.device("cuda:1"), 5)
        == "H100"
    )
    threads = torch.get_num_threads()
    for place in ("cpu", None, {"": "cpu"}):
        assert placement.named(place, 5) == f"CPU ({threads} thread{'s' if threads > 1 else ''})"


# load() and chat


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    place = tmp_path_factory.mktemp("plan")
    config = original_config(vocab_size=VOCABULARY)
    source = write_original(place / "original", config, original_weights(config))
    write_tokenizer(source)
    return patch_checkpoint(source, place / "converted")


@pytest.fixture
def gpus(monkeypatch):
    """Lets there seem to be GPUs with so many bytes each, and hands out what from_pretrained would be given."""

    def pretend(*free: int, cpu: int = 10**12) -> dict:
        cuda = {"is_available": True, "device_count": len(free), "get_device_name": "H100", "is_bf16_supported": True}
        for name, value in cuda.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda index: 0)
        memory = dict(enumerate(free)) | {"cpu": cpu}
        monkeypatch.setattr(accelerate, "accelerate_max_memory", lambda asked=None: dict(asked or memory))
        given = {}

        def load_model(folder, tensors, **settings):
            given.update(settings)
            raise KeyboardInterrupt

        monkeypatch.setattr(loading, "load_model", load_model)
        monkeypatch.setattr("minimax_nb.lightning.backends.choose", lambda *_: "torch")
        monkeypatch.setattr("minimax_nb.lightning.backends.why_not_fused", lambda *_: "")
        return given

    return pretend


def size(folder) -> int:
    """Bytes that Transformers counts of a model; it counts the decay tables too, most of so small a one."""
    model = placement.skeleton(loading._converted_config(folder))
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def test_load_refuses_what_would_leave_the_gpus(converted, gpus):
    given = gpus(size(converted) // 2, size(converted) // 4)
    with pytest.raises(UsageMistake) as refusal:
        loading.load(converted)
    message = str(refusal.value)
    assert "of 8 layers would not be on a GPU" in message and "Cheapest change: " in message
    assert "offload=True" in message and "--offload" in message and "\n" not in message and not given


def test_with_leave_it_loads_and_the_line_would_name_the_cpu(converted, gpus):
    given = gpus(size(converted) // 2, size(converted) // 4)
    with pytest.raises(KeyboardInterrupt):
        loading.load(converted, offload=True)
    assert {0, 1, "cpu"} == set(given["device_map"].values())
    assert placement.named(given["device_map"], 8).startswith("H100 x 2, CPU (")


def test_enough_gpus_need_no_leave(converted, gpus):
    given = gpus(size(converted), size(converted))
    with pytest.raises(KeyboardInterrupt):
        loading.load(converted)
    assert set(given["device_map"].values()) == {0, 1}


def test_a_map_of_ones_own_may_name_the_cpu(converted, gpus):
    given, own = gpus(10**9), {"": 0, "model.layers.7": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        loading.load(converted, device_map=own)
    assert given["device_map"] == own


def test_the_disk_needs_a_folder(converted, gpus, tmp_path):
    given = gpus(size(converted) // 2, cpu=size(converted) // 2)
    with pytest.raises(UsageMistake, match=r'would go to the disk.* offload="folder"'):
        loading.load(converted, offload=True)
    with pytest.raises(KeyboardInterrupt):
        loading.load(converted, offload=tmp_path / "away")
    assert "disk" in given["device_map"].values() and given["offload_folder"] == tmp_path / "away"


def test_what_lies_on_the_disk_computes_the_same(converted, tmp_path, capsys):
    ids = torch.tensor([[5, 9, 70, 8, 33]])
    with torch.no_grad():
        want = loading.load(converted, device_map="cpu")[0](ids).logits
        split = dict.fromkeys([*placement.ENDS, *(f"model.layers.{i}" for i in range(7))], "cpu") | {
            "model.layers.7": "disk"
        }
        got = loading.load(converted, device_map=split, offload=tmp_path / "away")[0](ids).logits
    assert got.equal(want)
    assert "CPU (7 of 8 layers), disk (1 of 8 layers)" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("flag, code", [([], 2), (["--offload"], 130)])
def test_chat_refuses_in_a_line(converted, gpus, capsys, flag, code):
    gpus(size(converted) // 2)
    assert cli.main(["chat", str(converted), *flag]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and ("--offload" in error) == (code == 2)


@pytest.mark.parametrize("how", [{"dtype": "auto"}, {"device_map": "balanced"}])
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_what_transformers_takes_besides_still_loads(converted, how, capsys):
    model, _ = loading.load(converted, **how)
    assert " on CPU (" in capsys.readouterr().out
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}


def test_too_little_memory_of_the_cpu_is_said_before_loading(converted, monkeypatch, capsys):
    monkeypatch.setattr(placement, "available_memory", lambda: 1000)
    with pytest.raises(
        UsageMistake, match=r"^not enough memory: the weights take .* GB in this dtype, 0\.00 GB are free$"
    ):
        loading.load(converted, device_map="cpu")
    assert cli.main(["chat", str(converted)]) == 2 or torch.cuda.is_available()


def test_memory_that_runs_out_while_loading_is_one_line(converted, monkeypatch):
    def runs_out(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(loading, "load_model", runs_out)
    with pytest.raises(UsageMistake, match=r"^not enough memory for the weights of .* GB on disk: ") as raised:
        loading.load(converted, device_map="cpu")
    assert "\n" not in str(raised.value)


def test_advice_for_gpus_that_are_too_small():
    config = patch_config(text_01())
    assert 'experts="int8"' in advice_here(config, "bfloat16", [80 * GB] * 8, False)
    assert "7 such GPUs with int8 experts" in advice_here(config, "bfloat16", [80 * GB] * 4, False)
    in_fp32 = advice_here(config, "float32", [141 * GB] * 8, False)
    assert in_fp32.startswith("1,824.4 GB of weights") and 'change: half precision, dtype="float16"' in in_fp32


# Words and the command line


@pytest.mark.parametrize("changes, advice", [
    ({"gpu_memory": 80}, "--dtype int8"),
    ({"context": 2_000_000, "gpu_memory": 120}, "--dtype int8"),
    ({"context": 3_000_000}, "--tp "),
    ({"context": 9_000_000, "dtype": "int8"}, "--context "),
    ({"batch": 500}, "--batch "),
    ({"gpus": 4, "gpu_memory": 80}, "such GPUs with --dtype int8"),
    ({"gpus": 2, "gpu_memory": 20}, "2 GPUs of "),
])  # fmt: skip
def test_the_advice_makes_it_fit(changes, advice):
    found = planned(**changes)
    assert not found.fits and advice in found.advice and found.advice in found.report
    words = found.advice.removeprefix("Cheapest change: ").split()
    change = {"dtype": "int8"} if "int8" in advice else {"tp": True} if advice == "--tp " else {}
    if advice.endswith("GPUs with --dtype int8"):
        change["gpus"] = int(words[0])
    elif advice.startswith("2 GPUs"):
        change |= {"gpu_memory": int(words[3]), "dtype": "int8"}
    elif advice in ("--context ", "--batch "):
        change[advice.strip(" -")] = int(words[words.index(advice.strip()) + 1].rstrip(".;"))
    assert planned(**changes | change).fits


def test_json_and_words_from_the_command_line(capsys):
    assert (
        cli.main(["plan", "--gpus", "8", "--gpu-memory", "80", "--dtype", "int8", "--context", "262144", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert KEYS <= set(found) and len(found["per_gpu_gb"]) == 8 and found["fits"] is True
    assert found["total_gb"] == pytest.approx(sum(found["per_gpu_gb"]), abs=1e-4)
    assert cli.main(["plan", "--json", "-"]) == 0  # 8 x 80 GB, bf16
    assert json.loads(capsys.readouterr().out)["fits"] is False
    assert cli.main(["plan"]) == 0
    assert (
        "does not fit: 912 GB of weights on 640 GB. Cheapest change: --dtype int8 (fits, up to "
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("flags", [
    ["--gpus", "0"], ["--gpus", "-1"], ["--gpus", "1.5"], ["--gpus", "x"], ["--gpus", "99999999"],
    *(["--gpu-memory", memory] for memory in ("-80", "0", "nan", "inf", "big")),
    ["--gpus", "3", "--tp"], ["--gpus", "16", "--tp"], ["--dtype", "fp8"], ["--dtype", ""],
    ["--context", "0"], ["--context", "10240001"], ["--context", "1e6"], ["--batch", "0"],
    ["no-such-folder"], ["MiniMaxAI/MiniMax-Text-01"],
])  # fmt: skip
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_mistake_is_one_line(flags, more, capsys):
    assert cli.main(["plan", *flags, *more]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and out == ""


@pytest.mark.parametrize(
    "change", [{"gpus": True}, {"gpus": 2.0}, {"context": "1000"}, {"gpu_memory": "80"}, {"batch": None}]
)
def test_python_refuses_the_same(change):
    with pytest.raises(UsageMistake):
        planned(**change)


def test_folders(converted, tmp_path):
    original, demo = converted.parent / "original", demo_checkpoint()
    of_original, of_converted = (plan(path, gpus=1, gpu_memory=8, context=100) for path in (original, converted))
    assert of_original._replace(report="") == of_converted._replace(report="")
    found = plan(demo, gpus=1, gpu_memory=8, context=1000)
    stored = sum(file.stat().st_size for file in demo.glob("*.safetensors")) / 1e9  # in fp32
    assert found.weights_gb == pytest.approx(stored / 2, rel=0.02) and found.fits
    assert found.max_context == json.loads((demo / "config.json").read_text())["max_position_embeddings"]
    config = json.loads((converted / "config.json").read_text())
    for change, error in (({"num_attention_heads": None}, ConfigError), ({"max_position_embeddings": None}, None)):
        edited = {key: value for key, value in (config | change).items() if value is not None}
        (tmp_path / "edited").mkdir(exist_ok=True)
        (tmp_path / "edited" / "config.json").write_text(json.dumps(edited))
        with pytest.raises(error) if error else nullcontext():
            assert plan(tmp_path / "edited", gpus=1, gpu_memory=8, context=100).fits
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        plan(tmp_path, gpus=1, gpu_memory=8, context=100)
    with pytest.raises(UsageMistake, match="tokens of context: this model takes"):
        plan(demo, gpus=1, gpu_memory=8, context=10_240_000)


def test_plan_is_the_function_though_a_module_has_its_name():
    importlib.import_module("minimax_nb.plan")
    assert exported is plan is minimax_nb.plan is sys.modules["minimax_nb.plan"].plan and "plan" in dir(minimax_nb)


def test_the_first_hour_says_what_the_planner_says():
    page = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    int8, largest = planned(gpu_memory=80, dtype="int8"), planned(gpu_memory=MEASURED["memory_gb"])
    assert table() in page and int8.report in page
    room, more = (f"{int(found.max_context / 1e4) / 100}" for found in (int8, largest))
    figures = (
        f"all weights take {int8.weights_gb:.0f} GB. That fits, with room for {room} million tokens",
        f"has {MEASURED['memory_gb']} billion, with which eight of them take {more} M tokens in bf16",
    )
    assert [figure for figure in figures if figure not in " ".join(page.split())] == []
