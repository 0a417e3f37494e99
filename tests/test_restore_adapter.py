"""restore_checkpoint of LoRA adapters: what they add to MiniMax's weights is what they added to the converted ones."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from originals import original_config, original_weights, relative_error, write_original
from safetensors.torch import load_file, save_file
from test_restore import read, tensors_of
from torch import nn

from minimax_nb import cli
from minimax_nb.checkpoint import patch_checkpoint, restore_checkpoint
from minimax_nb.checkpoint.folder import expected_shapes
from minimax_nb.config import patch_config
from minimax_nb.errors import CheckpointError, ConfigError

CONFIG = original_config(num_hidden_layers=3, attn_type_list=[0, 1, 1])
WEIGHTS = {name: tensor.double() for name, tensor in original_weights(CONFIG).items()}
EXPERTS, INNER, HIDDEN = CONFIG["num_local_experts"], CONFIG["intermediate_size"], CONFIG["hidden_size"]
Q = "base_model.model.model.layers.1.self_attn.q_proj"
MOE = "base_model.model.model.layers.0.mlp.experts"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """original, and converted with links into it; tests must not change them."""
    folder = tmp_path_factory.mktemp("adapter")
    patch_checkpoint(write_original(folder / "original", CONFIG, WEIGHTS), folder / "converted")
    return folder


def randn(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def adapter(folder: Path, tensors: dict[str, torch.Tensor], base: Path, **settings) -> Path:
    """A folder as PEFT writes it, with LoRA on whatever `tensors` say."""
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 4, "lora_alpha": 8, "use_rslora": False}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]} | settings))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def pair(module: str, rows: int, columns: int, rank: int = 4, seed: int = 3) -> dict[str, torch.Tensor]:
    parts = {"lora_A": randn(rank, columns, seed=seed), "lora_B": randn(rows, rank, seed=seed + 1)}
    return {f"{module}.{part}.weight": tensor for part, tensor in parts.items()}


def added(folder: Path) -> dict[str, torch.Tensor]:
    """The original's weights with a restored adapter on them, by hand: W + alpha / r * B A."""
    settings, tensors = read(folder, "adapter_config.json"), load_file(folder / "adapter_model.safetensors")
    assert settings["rank_pattern"] == settings["alpha_pattern"] == {} and not settings["use_rslora"]
    scale, weights = settings["lora_alpha"] / settings["r"], dict(WEIGHTS)
    for name in tensors:
        if name.endswith(".lora_A.weight"):
            A, B = tensors[name], tensors[name.replace("lora_A", "lora_B")]
            assert A.shape[0] == B.shape[1] == settings["r"]
            changed = name.removeprefix("base_model.model.").replace("lora_A.", "")
            weights[changed] = weights[changed] + scale * B @ A
    return weights


# By hand


def test_rows_of_q_and_k_return_to_their_places(place, tmp_path):
    k = "base_model.model.model.layers.2.self_attn.k_proj"
    tensors = pair(Q, 64, HIDDEN) | pair(k, 32, HIDDEN, seed=9)
    back = restore_checkpoint(adapter(tmp_path / "lora", tensors, place / "converted"), tmp_path / "back")
    got, converted = added(back), tensors_of(place / "converted")
    for module in (Q, k):
        name = f"{module.removeprefix('base_model.model.')}.weight"
        tuned = converted[name] + 2 * tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
        order = [int((converted[name] == row).all(1).nonzero()) for row in WEIGHTS[name]]  # where each row went
        assert order != sorted(order) and relative_error(got[name], tuned[order]) < 1e-15
    settings = read(back, "adapter_config.json")
    assert settings["base_model_name_or_path"] == str((place / "original").resolve())
    assert settings["target_modules"] == sorted([Q[17:], k[17:]])  # not all layers have one: whole names


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("gate_up_is_outer", [False, True])
def test_fused_experts_become_one_adapter_each(place, tmp_path, rslora, gate_up_is_outer):
    """PEFT names the two tensors of the experts by the order of wrapping. Their ranks and alphas differ."""
    inner, outer = (MOE, f"{MOE}.base_layer") if gate_up_is_outer else (f"{MOE}.base_layer", MOE)
    tensors = pair(inner, 2 * INNER, HIDDEN, 3 * EXPERTS) | pair(outer, HIDDEN, INNER, 2 * EXPERTS, seed=7)
    settings = {"target_parameters": ["gate_up_proj", "down_proj"], "alpha_pattern": {r".*\.gate_up_proj": 5}}
    settings |= {"rank_pattern": {r".*\.gate_up_proj": 3}, "r": 2, "use_rslora": rslora}
    back = restore_checkpoint(adapter(tmp_path / "lora", tensors, place / "converted", **settings), tmp_path / "back")
    got, root = added(back), math.sqrt if rslora else float
    for module, rank, alpha, kinds in ((inner, 3, 5, ("w1", "w3")), (outer, 2, 8, ("w2",))):
        A = tensors[f"{module}.lora_A.weight"].view(EXPERTS, rank, -1)
        B = tensors[f"{module}.lora_B.weight"].view(-1, rank, EXPERTS)
        delta = torch.einsum("ore,eri->eoi", B, A) * alpha / root(rank)
        for expert in range(EXPERTS):
            for kind, want in zip(kinds, delta[expert].chunk(len(kinds)), strict=True):
                name = f"model.layers.0.block_sparse_moe.experts.{expert}.{kind}.weight"
                assert relative_error(got[name] - WEIGHTS[name], want) < 1e-6  # a factor went into B, in fp32
    assert read(back, "adapter_config.json")["target_parameters"] is None


def test_equal_ranks_and_scales_leave_the_numbers_alone(place, tmp_path):
    tensors = {name: tensor.bfloat16() for name, tensor in pair(MOE, HIDDEN, INNER, 4 * EXPERTS).items()}
    tensors |= {name: tensor.bfloat16() for name, tensor in pair(Q, 64, HIDDEN).items()}
    back = restore_checkpoint(adapter(tmp_path / "lora", tensors, place / "converted"), tmp_path / "back")
    made = load_file(back / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in made.values()} == {torch.bfloat16}
    assert torch.equal(made[f"{Q}.lora_A.weight"], tensors[f"{Q}.lora_A.weight"])
    total = sum(tensor.double().square().sum() for tensor in tensors.values())
    assert sum(tensor.double().square().sum() for tensor in made.values()) == pytest.approx(total)


# By PEFT


def skeleton() -> nn.Module:
    """MiniMax's modules by name, with their weights, and without a forward pass."""
    root = nn.Module()
    root.prepare_inputs_for_generation = None  # PEFT looks for it
    for name, weight in WEIGHTS.items():
        *path, last = name.removesuffix(".weight").split(".")
        parent = root
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        kind = nn.Embedding if last == "embed_tokens" else lambda columns, rows: nn.Linear(columns, rows, bias=False)
        module = nn.Module() if weight.dim() == 1 else kind(*(weight.shape if "embed" in last else weight.T.shape))
        module.weight = nn.Parameter(weight.clone())
        parent.add_module(last, module)
    return root


PEFT = {
    "all-linear": dict(target_modules="all-linear"),
    "patterns": dict(
        target_modules=["q_proj", "v_proj", "qkv_proj"],
        target_parameters=["mlp.experts.down_proj", "mlp.gate.weight"],
        rank_pattern={"q_proj": 2},
        alpha_pattern={"q_proj": 3, "gate.weight": 5},
    ),
    "DoRA and a whole head": dict(target_modules=["q_proj", "k_proj"], use_dora=True, modules_to_save=["lm_head"]),
    "some layers": dict(target_modules=["k_proj", "o_proj"], layers_to_transform=[2], use_rslora=True),
    "embedding": dict(target_modules=["embed_tokens", "q_proj"]),
}


@pytest.mark.filterwarnings("ignore")  # PEFT's and Transformers', of each other's names
@pytest.mark.parametrize("case", PEFT)
def test_peft_merges_the_same_on_either_side(place, tmp_path, case, caplog):
    """Merged into the converted model and restored, or restored and merged into MiniMax's weights."""
    peft = pytest.importorskip("peft")
    from transformers import MiniMaxForCausalLM

    model = MiniMaxForCausalLM.from_pretrained(place / "converted", dtype=torch.float64)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **PEFT[case]))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    model.save_pretrained(tmp_path / "lora")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    want = tensors_of(restore_checkpoint(tmp_path / "merged", tmp_path / "merged-back"))

    caplog.clear()
    caplog.set_level("INFO", "minimax_nb")
    back = restore_checkpoint(tmp_path / "lora", tmp_path / "back")
    assert ("llama.cpp and vLLM take no DoRA" in caplog.text) == ("DoRA" in case)
    got = peft.PeftModel.from_pretrained(skeleton(), back).merge_and_unload().state_dict()
    assert got.keys() == want.keys()
    changed = [name for name in want if not torch.equal(want[name], WEIGHTS[name])]
    assert changed and max(relative_error(got[name], want[name]) for name in want) < 1e-7


# Mistakes


def test_base(place, tmp_path):
    """Of an adapter whose base moved: either folder will do, and only MiniMax's can be named as the new base."""
    src = adapter(tmp_path / "lora", pair(Q, 64, HIDDEN), Path("gone"))
    with pytest.raises(CheckpointError, match="its base is 'gone', and no such folder is here: give --original"):
        restore_checkpoint(src, tmp_path / "back")
    one = restore_checkpoint(src, tmp_path / "one", original=place / "original")
    other = restore_checkpoint(src, tmp_path / "other", original=place / "converted")
    named = [read(folder, "adapter_config.json")["base_model_name_or_path"] for folder in (one, other)]
    assert named == [str(place / "original"), str((place / "original").resolve())]
    wrong = adapter(tmp_path / "wrong", pair(Q, 64, HIDDEN), place / "original")
    with pytest.raises(ConfigError, match="is not a converted folder"):
        restore_checkpoint(wrong, tmp_path / "back")
    copied = patch_checkpoint(place / "original", tmp_path / "copied", link=False)
    third = restore_checkpoint(src, tmp_path / "third", original=copied)
    assert read(third, "adapter_config.json")["base_model_name_or_path"] is None


LOST = {name: tensor for name, tensor in pair(Q, 64, HIDDEN).items() if "lora_B" in name}
MISTAKES = {
    "another method": (dict(peft_type="IA3"), {}, "peft_type is 'IA3', not LORA: merge it first"),
    "its start changed the base": (dict(init_lora_weights="pissa"), {}, "init_lora_weights is 'pissa'.*merge it first"),
    "layers twice": (dict(layer_replication=[[0, 2], [1, 3]]), {}, "layer_replication .*merge it first"),
    "a bias": ({}, {f"{Q}.lora_B.bias": randn(64)}, "q_proj.lora_B.bias is not a part of plain LoRA: merge"),
    "another size": ({}, pair(Q, 128, HIDDEN), r"q_proj.weight is \[128, 48\], and \[64, 48\] there"),
    "rows of no head": ({}, pair(Q, 70, HIDDEN), "not as PEFT writes an adapter"),
    "another model": ({}, pair(Q.replace("layers.1", "layers.9"), 64, HIDDEN), "layers.9.* and not there"),
    "a wrong pattern": (dict(alpha_pattern={"(": 1}), {}, "not as PEFT writes an adapter"),
    "half of a pair": ({}, LOST | {f"{Q}.lora_A.weight": randn(3, HIDDEN)}, "no A and B that belong together"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(place, tmp_path, mistake, capsys):
    settings, tensors, words = MISTAKES[mistake]
    src = adapter(tmp_path / "lora", pair(Q, 64, HIDDEN) | tensors, place / "converted", **settings)
    for option in ([], ["--dry-run"]):
        assert cli.main(["restore", str(src), str(tmp_path / "back"), *option]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises((CheckpointError, ConfigError), match=words):
        restore_checkpoint(src, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


def test_the_command(place, tmp_path, capsys):
    src, dst = adapter(tmp_path / "lora", pair(Q, 64, HIDDEN), place / "converted"), tmp_path / "back"
    assert cli.main(["restore", str(src), str(dst), "--dry-run"]) == 0
    assert "rank 4, alpha 8" in capsys.readouterr().out and not dst.exists()
    for _ in range(2):
        assert cli.main(["restore", str(src), str(dst)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{dst}\n" * 2 and "nothing to do" in err
    shutil.rmtree(src)
    with pytest.raises(CheckpointError, match="was not made from"):
        restore_checkpoint(adapter(src, pair(Q, 64, HIDDEN, seed=8), place / "converted"), dst)


def test_names_of_targets_reach_no_other_module(place, tmp_path):
    """PEFT takes every module whose name ends with a dot and the target."""
    tensors = {}
    for name, shape in expected_shapes(patch_config(CONFIG)).items():
        if (
            name.endswith((".q_proj.weight", ".v_proj.weight", ".output_gate.weight"))
            and "layers.2.self_attn.v" not in name
        ):
            tensors |= pair(f"base_model.model.{name.removesuffix('.weight')}", *shape)
    back = restore_checkpoint(adapter(tmp_path / "lora", tensors, place / "converted"), tmp_path / "back")
    targets = read(back, "adapter_config.json")["target_modules"]
    assert targets == ["model.layers.1.self_attn.v_proj", "output_gate", "q_proj"]
