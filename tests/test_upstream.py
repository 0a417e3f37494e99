"""The reproductions for Transformers' maintainers: each fails on stock, and passes once the fix it proposes is in.

The fixes are put into the installed Transformers here, as the docstrings of docs/upstream/*.py describe them; those of
the cache are `repair_cache`. Some replace a line of stock's source: another version may word it otherwise.
"""

import ast
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import logging
from transformers.models.auto import tokenization_auto
from transformers.models.minimax import configuration_minimax, modeling_minimax

from minimax_nb.cache import repair_cache, stock_cache

ROOT = Path(__file__).parents[1]
FOLDER, RESULTS = ROOT / "docs" / "upstream", ROOT / "notebooks" / "results"
DOCUMENT = (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8")
VERSIONS = ("4.57.6", "5.23.0", "5.24.0")
FOUND = {version: json.loads((RESULTS / f"traps_{version}.json").read_text()) for version in VERSIONS}
NEWEST = FOUND[VERSIONS[-1]]["traps"]
LIGHTNING = modeling_minimax.MiniMaxLightningAttention


def imported(name: str):
    """A file of docs/upstream as a module under a name that nothing else has."""
    spec = importlib.util.spec_from_file_location(f"upstream_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ALL = imported("all")


@pytest.fixture(autouse=True)
def logging_as_it_was():
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(level)
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()


@pytest.fixture(scope="module")
def stock() -> dict[str, dict]:
    """Every trap as all.py finds it on the installed Transformers, as published."""
    with stock_cache():
        return {name: ALL.run(name) for name in ALL.TRAPS}


@pytest.mark.parametrize("name", ALL.TRAPS)
def test_the_trap_is_there(stock, name):
    assert stock[name]["state"] == "remains"
    committed = NEWEST[name]["figures"]
    assert stock[name]["figures"].keys() == committed.keys()
    for figure, value in stock[name]["figures"].items():
        want = committed[figure]
        assert value == (want if isinstance(want, str) else pytest.approx(want, rel=0.5)), figure


def test_the_document_has_the_figures_of_every_version():
    rows = [f"| trap | figure | {' | '.join(VERSIONS)} |", "|---|---|" + "---|" * len(VERSIONS)]
    for name in ALL.TRAPS:
        columns = [FOUND[version]["traps"][name]["figures"] for version in VERSIONS]
        assert all(column.keys() == columns[0].keys() for column in columns)
        cells = [f" {figure} | {' | '.join(ALL.text(column[figure]) for column in columns)} |" for figure in columns[0]]
        rows += [f"| [{name}](upstream/{name}.py) |{cells[0]}", *("| |" + cell for cell in cells[1:])]
    assert "\n".join(["", *rows, ""]) in DOCUMENT


def test_the_results_say_which_version_they_are_of():
    assert [result["versions"]["transformers"] for result in FOUND.values()] == list(VERSIONS)
    states = {version: {trap["state"] for trap in result["traps"].values()} for version, result in FOUND.items()}
    assert states["5.23.0"] == states["5.24.0"] == {"remains"}
    absent = [name for name, trap in FOUND["4.57.6"]["traps"].items() if trap["state"] != "remains"]
    assert absent == ["pre_tokenizer"]  # Transformers 5 brought this one


def test_the_lines_for_the_table_of_readme(capsys):
    lines, printed = re.search(r"```python\n(.+?)```.+?```\n(.+?)```", DOCUMENT, re.DOTALL).groups()
    with stock_cache():
        exec(lines, {})
    assert capsys.readouterr().out == printed


def test_the_exit_code_without_any_file_of_ours(tmp_path):
    script = tmp_path / "half_renamed.py"
    script.write_text((FOLDER / "half_renamed.py").read_text())
    run = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "half_renamed: wrong layers of 80 50; wrong alphas of 3 3\n")


@pytest.mark.parametrize("name", ALL.TRAPS)
def test_scripts_import_nothing_but_torch_transformers_and_tokenizers(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots = {name.split(".")[0] for name in found}
    assert roots - set(sys.stdlib_module_names) <= {"torch", "transformers", "tokenizers"}


def test_all_says_which_remain(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(ALL, "TRAPS", ("half_renamed",))
    monkeypatch.setattr(sys, "argv", ["all.py", "--json", str(tmp_path / "found.json")])
    assert ALL.main() == 1
    assert "remains: half_renamed\nabsent: none\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["traps"] == {"half_renamed": NEWEST["half_renamed"]}
    published_names(monkeypatch)
    assert ALL.main() == 0
    assert "remains: none\nabsent: half_renamed\n" in capsys.readouterr().out


def test_a_script_that_does_not_run_is_not_absent():
    found = ALL.run("no_such_trap")
    assert found["state"].startswith("does not run: ModuleNotFoundError")
    assert "| no_such_trap | does not run: " in ALL.table({"no_such_trap": found})


# The fixes


def edited(function, *changes: tuple[str, str]):
    """`function` with each (old, new) of `changes` replaced in its source."""
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        assert source.count(old) == 1, f"stock's source changed: {old!r}"
        source = source.replace(old, new)
    names = dict(vars(modeling_minimax))
    exec(source, names)
    return names[function.__name__]


def whole_rope(monkeypatch):
    """As in minimax_m2: the factor in the config, fewer frequencies, the other dims passed through."""
    config, rotary = configuration_minimax.MiniMaxConfig, modeling_minimax.MiniMaxRotaryEmbedding
    convert, apply = config.convert_rope_params_to_dict, modeling_minimax.apply_rotary_pos_emb

    def factor_from_rotary_dim(self, **kwargs):
        if "rotary_dim" in kwargs:
            kwargs.setdefault("partial_rotary_factor", kwargs["rotary_dim"] / self.head_dim)
        return convert(self, **kwargs)

    def frequencies(config, **kwargs):
        dim = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
        return config.rope_parameters["rope_theta"] ** (-torch.arange(0, dim, 2).float() / dim), 1.0

    def rotated(q, k, cos, sin, **kwargs):
        dim = cos.shape[-1]
        turned = apply(q[..., :dim], k[..., :dim], cos, sin, **kwargs)
        return tuple(torch.cat([new, x[..., dim:]], -1) for new, x in zip(turned, (q, k), strict=True))

    monkeypatch.setattr(config, "convert_rope_params_to_dict", factor_from_rotary_dim)
    monkeypatch.setattr(rotary, "compute_default_rope_parameters", staticmethod(frequencies))
    monkeypatch.setattr(modeling_minimax, "apply_rotary_pos_emb", rotated)


def float32_state(monkeypatch):
    buffers = {"slope_rate", "query_decay", "key_decay", "diagonal_decay"}
    monkeypatch.setattr(modeling_minimax.MiniMaxPreTrainedModel, "_keep_in_fp32_modules_strict", buffers)
    forward = edited(
        LIGHTNING.forward,
        ("torch.split(qkv_states,", "torch.split(qkv_states.float(),"),
        ("self.norm(attn_output)", "self.norm(attn_output.to(hidden_states.dtype))"),
    )
    monkeypatch.setattr(LIGHTNING, "forward", forward)


def published_names(monkeypatch):
    config = configuration_minimax.MiniMaxConfig
    factors = {"full_attention": "full_attn", "linear_attention": "linear_attn", "mlp": "mlp"}
    names = {f"layernorm_{old}_{x}": f"{new}_{x}_factor" for old, new in factors.items() for x in ("alpha", "beta")}
    finish = config.__post_init__

    def layer_types_from_the_list(self, attn_type_list=None, **kwargs):
        if attn_type_list is not None:
            self.layer_types = ["full_attention" if kind else "linear_attention" for kind in attn_type_list]
        finish(self, **kwargs)

    monkeypatch.setattr(config, "attribute_map", config.attribute_map | names)
    monkeypatch.setattr(config, "__post_init__", layer_types_from_the_list)


def blocks_from_the_state(monkeypatch):
    indent = " " * 8
    loop = f"{indent}attn_output = []\n{indent}for i in range(num_blocks):"
    forward = edited(LIGHTNING.forward, (loop, f"    if seq_len > 1:\n{loop}"))
    monkeypatch.setattr(LIGHTNING, "forward", forward)


def interleaved_slopes(monkeypatch):
    def get_slope_rate(self, device=None):
        heads = self.num_attention_heads
        n = 2 ** (heads.bit_length() - 1)
        rate = [2 ** (-8 * i / n) for i in range(1, n + 1)] + [2 ** (-4 * i / n) for i in range(1, 2 * (heads - n), 2)]
        factor = 1 - self.layer_idx / (self.num_hidden_layers - 1 + 1e-5) + 1e-5
        return torch.tensor(rate, device=device)[:, None, None] * factor

    monkeypatch.setattr(LIGHTNING, "get_slope_rate", get_slope_rate)


def pre_tokenizer_of_the_file(monkeypatch):
    listed = tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    monkeypatch.setattr(tokenization_auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", listed | {"minimax"})
    monkeypatch.setitem(tokenization_auto.TOKENIZER_MAPPING_NAMES, "minimax", "TokenizersBackend")  # follows the list


def repaired_cache(monkeypatch):
    repair_cache()


FIXES = {
    "partial_rope": whole_rope,
    "cache_length": repaired_cache,
    "beams": repaired_cache,
    "bf16_state": float32_state,
    "half_renamed": published_names,
    "cached_turn": blocks_from_the_state,
    "slopes": interleaved_slopes,
    "pre_tokenizer": pre_tokenizer_of_the_file,
}


@pytest.mark.parametrize("name", ALL.TRAPS)
def test_the_fix_mends_it(monkeypatch, capsys, name):
    FIXES[name](monkeypatch)
    assert imported(name).main() == 0, capsys.readouterr().out


def test_blocks_from_the_state_leave_the_second_turn_right(monkeypatch):
    repair_cache()
    blocks_from_the_state(monkeypatch)
    assert ALL.run("cache_length")["state"] == "absent"
