"""benchmarks/full_model.py: it measures what load() gives, keeps what it has measured, and ends in time."""

import functools
import json
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchao", reason='pip install -e ".[int8]"')
sys.path.insert(0, str(Path(__file__).parents[1]))

from transformers import MiniMaxConfig, MiniMaxForCausalLM

from benchmarks import full, full_model
from benchmarks.full import parts
from benchmarks.full.model import made, native
from benchmarks.full.parts import Part, Settings, measured
from minimax_nb.experts.held import size, values_and_scales
from minimax_nb.parallel import ALONE

LATER = 10**12  # seconds: there is time for everything


def settings(**changes) -> Settings:
    return Settings(**{"layers": 8, "int8": True, "toy": True, "until": LATER} | changes)


@pytest.fixture
def told():
    return {}


def test_every_part_is_measured_at_toy_size(told):
    measured(settings(), ALONE, told.__setitem__)
    assert [name for name, row in told.items() if row["status"] != "ok"] == []
    assert told["decode_1"]["decoding"] == told["prefill_128k"]["decoding"] == "static"
    assert told["decode_8"]["tokens_s"] == pytest.approx(8000 / told["decode_8"]["ms"], rel=1e-3)
    assert told["generate"]["same_on_all_ranks"] and told["serve"]["tokens"] == told["generate"]["tokens"] == 30
    assert told["weights"]["weights_here_gb"] > 0 < told["decode_1"]["floor_ms"]


def test_a_part_that_fails_ends_nothing_and_one_without_time_is_skipped(told, monkeypatch):
    def fails(run):
        raise ValueError("no such luck")

    some = [Part("fails", fails), Part("long", parts.weights, 1000), Part("weights", parts.weights)]
    monkeypatch.setattr(parts, "parts", lambda *_: some)
    monkeypatch.setattr(parts, "rates", lambda *_: {})
    measured(settings(until=time.time() + 500), ALONE, told.__setitem__)
    assert told["fails"]["status"] == "error" and "no such luck" in told["fails"]["why"]
    assert told["long"]["status"] == "skipped" and "1000 s" in told["long"]["why"]
    assert told["weights"]["status"] == "ok"


def test_whole_layers_on_two_devices(monkeypatch):
    """As on several GPUs: accelerate moves all that a layer holds, so nothing may still be without values."""
    monkeypatch.setattr(full.model, "places_of", lambda config, *_: in_halves(config["num_hidden_layers"]))
    dispatch = functools.partial(full.model.dispatch_model, main_device="cpu", force_hooks=True)
    on_cpu = lambda model, places, **more: dispatch(model, dict.fromkeys(places, "cpu"), **more)  # noqa: E731
    monkeypatch.setattr(full.model, "dispatch_model", on_cpu)
    model = made(native(8, toy=True), int8=True)
    assert model.model.layers[0].self_attn._hf_hook.execution_device == "cpu"
    assert model(torch.arange(3, 60)[None]).logits.isfinite().all()


def in_halves(layers: int) -> dict:
    """Two devices by name, both of which are the CPU."""
    first, second = "cpu", torch.device("cpu")
    ends = {"model.embed_tokens": first, "model.rotary_emb": first, "model.norm": second, "lm_head": second}
    return ends | {f"model.layers.{i}": first if i < layers // 2 else second for i in range(layers)}


def test_the_model_computes_as_the_same_weights_in_transformers():
    """In fp32: the static step and the kept cache too, for a prompt and two tokens after it."""
    model, ids = made(native(8, toy=True), int8=True), torch.arange(3, 60)[None]
    stock = MiniMaxForCausalLM(MiniMaxConfig(**native(8, toy=True))).eval()
    plain = {name: weight for name, weight in model.named_parameters() if ".experts." not in name}
    for name, weight in model.named_parameters():
        if ".experts." in name:
            values, scales = values_and_scales(weight)
            plain[name] = values.float() * scales[..., None]
    found = stock.load_state_dict(plain, strict=False)
    assert not found.unexpected_keys and all("decay" in key or "slope" in key for key in found.missing_keys)
    with torch.no_grad():
        out = model(ids[:, :-2], use_cache=True)
        got = [out.logits[0, -1]]
        for token in ids[:, -2:].split(1, 1):
            got.append(model(token, cache=out.cache, use_cache=True).logits[0, -1])
        want = stock(ids).logits[0, -3:]
    assert (torch.stack(got) - want).norm() / want.norm() < 1e-5


def test_integers_and_scales_are_like_weights_of_the_published_spread():
    weight = made(native(8, toy=True), int8=True).model.layers[3].mlp.experts.gate_up_proj
    values, scales = values_and_scales(weight)
    assert 0.019 < (values.float() * scales[..., None]).std() < 0.021
    assert len(scales.unique()) > 100 and values.min() == -127 and values.max() == 127


@pytest.mark.parametrize(
    ("gpus", "gb", "int8", "layers"),
    [(2, 150.1, True, 40), (8, 85.0, True, 80)],
)
def test_as_many_layers_as_the_gpus_hold(gpus, gb, int8, layers):
    assert full_model.most_layers(gpus, gb * 1e9, int8) == layers


def test_the_command_keeps_what_a_way_had_found_before_it_failed(tmp_path, monkeypatch, capsys):
    """The process that measures is replaced by one that tells of a part and then exits with code 3."""
    script = tmp_path / "way.py"
    lines = ["import json, pathlib, sys", "way, file, _ = json.loads(sys.argv[2])"]
    lines += ["pathlib.Path(file).write_text(json.dumps({'weights': {'status': 'ok'}}))", "sys.exit(3)"]
    script.write_text("\n".join(lines))
    monkeypatch.setattr(full_model, "__file__", str(script))
    file = tmp_path / "full.json"
    assert full_model.main(["--toy", "--ways", "device_map", "--json", str(file)]) == 1
    found = json.loads(file.read_text())
    assert found["device_map"]["weights"] == {"status": "ok"} and "exit code 3" in found["device_map"]["wrong"]
    assert found["complete"] and found["layers"] == 8 and found["plan"]["fits"]
    assert found["versions"]["torch"] and found["devices"] == ["CPU"]


def test_a_way_that_does_not_end_is_stopped(tmp_path, monkeypatch):
    script = tmp_path / "way.py"
    script.write_text("import time\ntime.sleep(600)")
    monkeypatch.setattr(full_model, "__file__", str(script))
    monkeypatch.setattr(full_model, "LATE", 0)
    file = tmp_path / "full.json"
    assert full_model.main(["--toy", "--budget", "1", "--ways", "device_map", "--json", str(file)]) == 1
    assert "stopped" in json.loads(file.read_text())["device_map"]["wrong"]


def test_int8_experts_take_half_of_bf16():
    small, large = (sum(size(w) for n, w in made(native(8, toy=True), int8=i).named_parameters() if "experts" in n)
                    for i in (True, False))  # fmt: skip
    assert 0.25 < small / large < 0.3  # of fp32 here, and a scale a row of 256 or 64
