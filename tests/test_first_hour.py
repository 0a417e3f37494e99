"""The page of the first hour: its commands and its script run here on the demo, its error texts are what is raised.

Every entry under "Troubleshooting by symptom" is reproduced below or names its public source. To add one, write it on
the page and give it an entry in ERRORS (a text), a test that calls `entry` (a behaviour), or a link.
"""

import builtins
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import test_pages
import torch
import traps
from originals import original_config, original_weights, write_original
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, MiniMaxConfig, MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from minimax_nb import cli, demo, original
from minimax_nb.cache import repair_cache, stock_cache
from minimax_nb.chat import Chat
from minimax_nb.checkpoint import convert as checkpoint
from minimax_nb.config import patch_config
from minimax_nb.loading import load
from minimax_nb.planner import placement

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PAGE = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
HOUR, SYMPTOMS = PAGE.partition("## Troubleshooting by symptom")[::2]
SYMPTOMS = SYMPTOMS.partition("\n## ")[0]
ENTRIES = [" ".join(text.split()) for text in re.findall(r"^- (\*\*.*?)(?=^- |^#|\Z)", SYMPTOMS, re.M | re.S)]
SRC, DST = "MiniMax-Text-01", "MiniMax-Text-01-converted"
RESULTS = ("convert_whole.json", "load_two_gpus.json")
SPILLED = "Seconds a token, GPUs idle"
# Reproduced in test_serve.py
OF_THE_SERVER = (
    "fastapi, uvicorn, openai",
    "cannot listen on",
    "401 - no key",
    "404 - there is no model",
    "context is",
)


def entry(symptom: str) -> str:
    """The one entry of the page whose bold text contains `symptom`."""
    (found,) = (text for text in ENTRIES if symptom in "".join(re.findall(r"\*\*(.*?)\*\*", text)))
    return found


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory) -> Path:
    """A directory in which the demo has the name of the real model."""
    place = tmp_path_factory.mktemp("hour")
    shutil.copytree(demo.demo_checkpoint(), place / SRC)
    checkpoint.patch_checkpoint(place / SRC, place / DST)
    return place


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The demo under the name of the real model, in a current directory of one's own."""
    shutil.copytree(demo.demo_checkpoint(), tmp_path / SRC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def loaded(rehearsal):
    return load(rehearsal / DST, device_map="cpu")


# The hour


def commands() -> list[list[str]]:
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", HOUR, re.S)).splitlines()
    return [line.split()[1:] for line in lines if line.startswith("minimax-nb ")]


def test_every_command_runs_in_the_order_of_the_page(here, capsys):
    printed = ""
    for arguments in commands():
        assert cli.main(arguments) == 0, arguments
        printed += capsys.readouterr().out
    assert [arguments[0] for arguments in commands()] == ["doctor", "plan", "patch", "patch", "check"]
    blocks = "".join(re.findall(r"```text\n(.*?)```", HOUR, re.S))
    quoted = [line for line in blocks.splitlines() if line != "..." and "logits" not in line]  # the demo computes those
    said = {without_numbers(line) for line in printed.splitlines()}
    assert [line for line in quoted if without_numbers(line) not in said] == []


def without_numbers(line: str) -> str:
    """The stand-in has other numbers than the demo, the words are the same."""
    return " ".join(re.sub(r"\d[\d,.]*(e-\d+)?", "N", line).split())


def test_the_script_gives_a_first_reply(rehearsal):
    first, sign, _ = re.findall(r"```python\n(.*?)```", HOUR, re.S)  # the last is tests/test_parallel.py's
    script = first + "print()\n" + sign
    assert len(first.strip().splitlines()) <= 10 and len(sign.strip().splitlines()) <= 3
    path = os.environ | {"PYTHONPATH": str(NOTEBOOKS.parent)}
    run = subprocess.run([sys.executable, "-c", script], cwd=rehearsal, env=path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "cache repaired: length, mask sizes, beams, repeat, select, reset" in run.stdout.splitlines()[0]
    assert "egg yolks" in run.stdout
    assert "845921" in run.stdout.splitlines()[-1]


def test_a_check_that_needs_more_memory_says_so(rehearsal, monkeypatch, capsys):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    assert cli.main(["check", str(rehearsal / DST)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "logits" in line)
    assert re.fullmatch(r"-\s+logits\s+skipped: 8 layers need about \d+ GB of memory, \d+ GB are free; --layers", line)


@pytest.fixture(scope="module")
def whole() -> MiniMaxForCausalLM:
    """All 456 B parameters, in shape only."""
    with torch.device("meta"):
        config = MiniMaxConfig(**patch_config(original.original_config()))
        return MiniMaxForCausalLM._from_config(config, dtype=torch.bfloat16)


def placed(model: MiniMaxForCausalLM, gib: float, monkeypatch) -> dict:
    """device -> (decoder layers, GB): where device_map="auto" puts the model on eight GPUs with so much free memory."""
    from transformers.integrations import accelerate

    memory = {i: int(gib * 2**30) for i in range(8)} | {"cpu": 2 * 10**12}
    monkeypatch.setattr(accelerate, "get_max_memory", lambda max_memory=None: dict(max_memory or memory))
    placement = accelerate._get_device_map(model, "auto", None, None)
    size = {name: 2 * sum(p.numel() for p in model.get_submodule(name).parameters()) for name in placement}
    return {
        device: (
            sum(".layers." in name and placement[name] == device for name in placement),
            sum(size[name] for name in placement if placement[name] == device) / 1e9,
        )
        for device in set(placement.values())
    }


def test_where_transformers_puts_the_whole_model(whole, monkeypatch):
    large, small = placed(whole, 139.8, monkeypatch), placed(whole, 79.2, monkeypatch)
    assert [large[i][0] for i in range(8)] == [10, 11, 11, 11, 11, 11, 11, 4] and set(large) == set(range(8))
    assert round(max(gigabytes for _, gigabytes in large.values())) == 125
    assert small["cpu"][0] == 25 and round(small["cpu"][1]) == 286
    entry(SPILLED)
    flat = " ".join(HOUR.split())
    figures = ("10 or 11 layers", "4 on the last", "125 GB", "25 of the 80 layers", "286 GB")
    assert [figure for figure in figures if figure not in flat] == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_compute_what_the_cpu_does(rehearsal, loaded):
    last = torch.cuda.device_count() - 1
    split = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": last, "lm_head": last}
    split |= {f"model.layers.{i}": i * (last + 1) // 8 for i in range(8)}
    (cpu, tokenizer), (gpus, _) = loaded, load(rehearsal / DST, dtype="float32", device_map=split)
    rows = ["two egg yolks and a spoon of mustard", "What is aioli?", "Hi"]
    ids = tokenizer(rows, return_tensors="pt", padding=True)
    with torch.no_grad():
        want, got = (model(ids.input_ids[:1].to(model.device)).logits.double().cpu() for model in (cpu, gpus))
    assert ((got - want).norm() / want.norm()).item() < 1e-5
    for more in ({}, {"num_beams": 4}):
        want, got = (
            model.generate(**ids.to(model.device), max_new_tokens=40, **more).tolist() for model in (cpu, gpus)
        )
        assert got == want
    talks = [Chat(model, tokenizer) for model in (cpu, gpus)]
    for text in ("Do you have mayonnaise recipes?", "And without mustard?", "Double it."):
        want, got = (talk.send(text, max_new_tokens=60) for talk in talks)
        assert got == want


# The page


def test_links_to_files_and_headings_resolve():
    test_pages.test_local_links_resolve(NOTEBOOKS / "README.md")
    headings = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in re.findall(r"^#+ (.*)", PAGE, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= headings


def test_the_map_names_every_notebook():
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} <= set(re.findall(r"\]\(([\w.]+\.ipynb)\)", PAGE))


def test_figures_are_those_of_the_results():
    convert, two = (json.loads((NOTEBOOKS / "results" / name).read_text()) for name in RESULTS)
    flat, decode = " ".join(PAGE.split()), two["decode_ms_a_token"]
    seconds = [round(value) for value in two["load_seconds"]]
    for text in (
        f"{convert['links']} relative links and one new file of {convert['bytes_written'] / 1e9:.1f} GB",
        f"{convert['peak_rss_bytes'] / 1e9:.1f} GB of memory",
        f"{min(seconds)} to {max(seconds)} s to load {two['weights_bytes'] / 1e9:.0f} GB",
        f"{decode['torch']:.0f} ms a token, {decode['fused']:.0f} ms with the fused kernels",
        f"{100 // decode['torch']:.0f} to {100 / decode['fused']:.0f} tokens a second",  # ten times as many layers
    ):
        assert text in flat
    assert two["eager_16384_tokens"].rstrip(".") in entry("CUDA out of memory")


def test_every_symptom_is_reproduced_or_has_its_source():
    assert len(ENTRIES) >= 20
    reproduced = {entry(quote) for quote in [*ERRORS, *BEHAVIOURS, SPILLED, *OF_THE_SERVER]}
    assert [
        text for text in ENTRIES if text not in reproduced and not re.search(r"\]\((https://|\.\./findings/)", text)
    ] == []


# Texts that are quoted. Each function raises or prints its own.


def edited(folder: Path, **changes) -> Path:
    """config.json of `folder` with `changes`; None removes a key."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: v for key, v in config.items() if v is not None}))
    return folder


def patch(src=SRC, dst=DST) -> None:
    cli.main(["patch", str(src), str(dst)])


def cut_shard(content: bytes | None) -> None:
    shard = next(Path(SRC).glob("model-*"))
    shard.unlink()
    if content is not None:
        shard.write_bytes(content)
    patch()


def foreign() -> None:
    patch()
    edited(Path(SRC), rms_norm_eps=1e-6)
    patch()


def dangling() -> None:
    patch()
    Path(SRC).rename("elsewhere")
    cli.main(["check", DST])


def ask_to_run_code() -> None:
    answer, builtins.input = builtins.input, lambda question: print(question) or "n"
    try:
        AutoConfig.from_pretrained(SRC)
    finally:
        builtins.input = answer


def run_remote_code() -> None:
    from transformers.utils.import_utils import is_torch_fx_available  # noqa: F401


def only_renamed() -> None:
    AutoModelForCausalLM.from_pretrained(edited(Path(SRC), model_type="minimax", auto_map=None))


def converted_by_stock() -> None:
    patch()
    AutoModelForCausalLM.from_pretrained(DST)


def native_without_rotary_dim() -> None:
    config = traps.renamed_config(json.loads((Path(SRC) / "config.json").read_text()))
    (Path(SRC) / "config.json").write_text(json.dumps(config))
    patch(edited(Path(SRC), rotary_dim=None))


def offloaded() -> None:
    patch()
    kept = ["model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head", *(f"model.layers.{i}" for i in range(7))]
    load(DST, device_map=dict.fromkeys(kept, "cpu") | {"model.layers.7": "disk"})


def spilled() -> None:
    patch()
    placed = {"model.layers.0": 0, "model.layers.1": "cpu"}
    free = {"place": lambda *_: placed, "free_gpu_memory": lambda: [10**9]}
    with mock.patch.multiple(placement, **free):
        placement.settled(json.loads((Path(DST) / "config.json").read_text()), "bfloat16", "auto")


def little_memory() -> None:
    patch()
    with mock.patch.object(placement, "available_memory", lambda: 1000):
        load(DST, device_map="cpu")


def second_turn_eager() -> None:
    patch()
    model = traps.stock_model(DST, attention="eager")
    with stock_cache():
        cache = MiniMaxCache()
        for turn in ([[5, 6, 7, 8]], [[9, 10]]):
            model(torch.tensor(turn), past_key_values=cache, use_cache=True)


def tokenizer():
    return AutoTokenizer.from_pretrained(SRC, trust_remote_code=False)


ERRORS = {
    "does not exist: give the folder that holds config.json and the weights": lambda: patch("no-such-folder"),
    "there is no folder MiniMaxAI/MiniMax-Text-01, and nothing is fetched here": lambda: patch("MiniMaxAI/" + SRC),
    "is missing: complete the download": lambda: cut_shard(None),
    "is damaged": lambda: cut_shard(b"half a file"),
    "is a git-lfs pointer, not the weights": lambda: cut_shard(b"version https://git-lfs.github.com/spec/v1\n"),
    "is not converted, stock Transformers would compute it wrong": lambda: load(SRC),
    "already converted; use the folder as it is": lambda: patch() or patch(DST, "again"),
    "exists and was not made from": foreign,
    "is a dangling link to": dangling,
    "Do you wish to run the custom code? [y/N]": ask_to_run_code,
    "cannot import name 'is_torch_fx_available' from 'transformers.utils.import_utils'": run_remote_code,
    "model type `minimax_text_01` but Transformers does not recognize this architecture": lambda: (
        AutoConfig.from_pretrained(edited(Path(SRC), auto_map=None))
    ),
    "self_attn.qkv_proj.weight` `UNEXPECTED": only_renamed,
    "self_attn.slope_rate` `MISSING": converted_by_stock,
    "has no rotary_dim: taking it that whole heads rotate": native_without_rotary_dim,
    "'str object' has no attribute 'text'": lambda: tokenizer().apply_chat_template(
        [{"role": "user", "content": "Hi"}]
    ),
    "Asking to pad but the tokenizer does not have a padding token": lambda: tokenizer()(["a", "b c"], padding=True),
    "must match the size of tensor b": second_turn_eager,
    "MiniMaxCache does not support `crop` method": lambda: MiniMaxCache().crop(1),
    "had weights offloaded to the disk": offloaded,
    "would not be on a GPU, and every token would wait for that": spilled,
    "not enough memory: the weights take": little_memory,
}


@pytest.mark.parametrize("quote", ERRORS)
def test_the_text_on_the_page_is_what_appears(here, capfd, quote):
    from transformers.utils import logging

    entry(quote)
    raised, log = "", io.StringIO()
    logging.add_handler(handler := logging.logging.StreamHandler(log))
    try:
        with contextlib.suppress(SystemExit):
            ERRORS[quote]()
    except Exception as error:
        raised = str(error)
    finally:
        logging.remove_handler(handler)
    seen = " ".join((raised + log.getvalue() + "".join(capfd.readouterr())).replace("|", " ").split())
    assert " ".join(quote.replace("` `", " ").split()) in seen if "` `" in quote else quote in seen


# Behaviours without a text

CONFIG = original_config()
WEIGHTS = original_weights(CONFIG)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Stock's models of a random checkpoint: converted, and with the config only renamed."""
    place = tmp_path_factory.mktemp("small")
    source = write_original(place / "original", CONFIG, WEIGHTS)
    converted = traps.stock_model(checkpoint.patch_checkpoint(source, place / "converted"))
    return converted, traps.stock_model(source, MiniMaxConfig(**traps.renamed_config(CONFIG)))


def endless(small, loaded):
    model, words = loaded
    ids = words.apply_chat_template(
        [{"role": "user", "content": "Do you have mayonnaise recipes?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    ).input_ids
    stops, runs_on = (
        model.generate(ids, max_new_tokens=90, do_sample=False, eos_token_id=eos).shape[1] - ids.shape[1]
        for eos in (words.eos_token_id, [])
    )
    assert stops < 90 and runs_on == 90
    assert json.loads((demo.demo_checkpoint() / "config.json").read_text())["eos_token_id"] is None


def full_rotation(small, loaded):
    right, wrong = (traps.prefill(model, CONFIG, WEIGHTS) for model in small)
    assert right < 1e-5 and wrong > 0.1


def repaired(trap):
    def reproduce(small, loaded):
        with stock_cache():
            wrong = traps.measured(trap, small[0], CONFIG, WEIGHTS)
        repair_cache()
        assert traps.measured(trap, small[0], CONFIG, WEIGHTS) < 1e-5 and wrong > 0.1

    return reproduce


def state_in_bf16(small, loaded):
    folder, dtypes = loaded[0].name_or_path, []
    for model in (MiniMaxForCausalLM.from_pretrained(folder, dtype="bfloat16"), load(folder, dtype="bfloat16")[0]):
        cache = MiniMaxCache()
        model(torch.tensor([[5, 6, 7]], device=model.device), past_key_values=cache, use_cache=True)
        dtypes.append(cache.linear_cache[0].dtype)
    assert dtypes == [torch.bfloat16, torch.float32]


def linear_share(whole) -> float:
    linear = sum(module.weight.numel() for module in whole.modules() if isinstance(module, torch.nn.Linear))
    return linear / sum(parameter.numel() for parameter in whole.parameters())


BEHAVIOURS = {
    "The reply never ends": endless,
    "names and numbers from earlier come back wrong": full_rotation,
    "Right alone, wrong in a batch": repaired(traps.padded_batch),
    "a wrong second turn": repaired(traps.second_turn),
    "beams worse than greedy": repaired(traps.beams),
    "Dropped letters or digits in long replies": state_in_bf16,
}


@pytest.mark.parametrize("symptom", BEHAVIOURS)
def test_the_behaviour_on_the_page_is_what_happens(small, loaded, symptom):
    entry(symptom)
    BEHAVIOURS[symptom](small, loaded)


def test_quantisers_of_linear_layers_reach_little_of_it(whole):
    assert f"{100 * linear_share(whole):.1f} % of this model" in entry("the memory does not fall")


def test_the_converted_folder_is_not_for_engines_that_read_rotary_dim(rehearsal):
    entry("vLLM or llama.cpp with the converted folder")
    assert "rotary_dim" not in json.loads((rehearsal / DST / "config.json").read_text())


def test_eager_attention_writes_all_scores(small):
    entry("CUDA out of memory")
    eager = small[0]
    eager.set_attn_implementation("eager")
    heads, n = CONFIG["num_attention_heads"], 24
    scores = eager(torch.ones(1, n, dtype=torch.long), output_attentions=True).attentions[-1]
    eager.set_attn_implementation("sdpa")
    assert scores.shape == (1, heads, n, n)
    assert 64 * 16384**2 * 2 == 32 * 2**30
