"""The small files of a converted folder: tokenizer settings, generation defaults, the prefixed chat template."""

import json
from pathlib import Path

import pytest
from originals import original_config, original_weights, write_original

from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.checkpoint.chat_templates import prefix_template
from minimax_nb.checkpoint.tokenizer_check import verify_tokenizer
from minimax_nb.errors import CheckpointError

# The shape of upstream's template: it reads message['content'][0]['text'].
TEMPLATE = """\
{% for message in messages %}
{% if message['role'] == 'system' %}
{{ '<beginning_of_sentence>system ai_setting=assistant\\n' + message['content'][0]['text'] + '<end_of_sentence>\\n' }}
{% elif message['role'] == 'user' %}
{{ '<beginning_of_sentence>user name=user\\n' + message['content'][0]['text'] + '<end_of_sentence>\\n' }}
{% elif message['role'] == 'assistant' %}
{{ '<beginning_of_sentence>ai name=assistant\\n' }}{% generation %}
{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}
{{ '<end_of_sentence>\\n' }}{% endgeneration %}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<beginning_of_sentence>ai name=assistant\\n' }}{% endif %}
"""
SPECIAL = ["<beginning_of_sentence>", "<end_of_sentence>", "<end_of_document>"]
STRINGS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is aioli?"},
    {"role": "assistant", "content": "Garlic and oil."},
]
LISTS = [message | {"content": [{"type": "text", "text": message["content"]}]} for message in STRINGS]


def add_tokenizer(folder: Path, *, jinja: bool = False, **settings) -> None:
    """A byte-level tokenizer whose settings are as upstream's: no pad token, a template, an auto_map."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "unk_token": SPECIAL[2],
        "auto_map": {"AutoTokenizer": ["tokenization.Evil", None]},
    } | settings
    if jinja:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    else:
        settings["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def weights() -> dict:
    return original_weights(original_config(vocab_size=300))


def write(folder: Path, weights: dict) -> Path:
    return write_original(folder, original_config(vocab_size=300), weights)


@pytest.mark.parametrize("jinja", [True, False])
def test_tokenizer_of_the_converted_folder(tmp_path, weights, jinja):
    from transformers import AutoTokenizer, GenerationConfig

    src = write(tmp_path / "src", weights)
    add_tokenizer(src, jinja=jinja)
    (src / "generation_config.json").write_text('{"temperature": 0.7, "do_sample": true, "eos_token_id": null}')
    dst = patch_checkpoint(src, tmp_path / "dst")
    assert "auto_map" not in (dst / "tokenizer_config.json").read_text()

    tokenizer = AutoTokenizer.from_pretrained(dst)
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("<end_of_sentence>", "left")
    assert tokenizer(["a", "abc"], padding=True)["attention_mask"] == [[0, 0, 1], [1, 1, 1]]
    generation = GenerationConfig.from_pretrained(dst)
    assert generation.eos_token_id == generation.pad_token_id == tokenizer.eos_token_id == 257
    assert generation.temperature == 0.7


@pytest.mark.parametrize("jinja", [True, False])
def test_template_takes_strings_and_lists(tmp_path, weights, jinja):
    from transformers import AutoTokenizer

    src = write(tmp_path / "src", weights)
    add_tokenizer(src, jinja=jinja)
    tokenizer = AutoTokenizer.from_pretrained(patch_checkpoint(src, tmp_path / "dst"))
    plain = AutoTokenizer.from_pretrained(src, trust_remote_code=False)
    plain.chat_template = TEMPLATE
    mixed = [LISTS[0], STRINGS[1], LISTS[2]]
    for options in ({}, {"add_generation_prompt": True}, {"continue_final_message": True}):
        want = plain.apply_chat_template(LISTS, tokenize=False, **options)
        assert "Garlic and oil." in want
        for messages in (STRINGS, LISTS, mixed):
            assert tokenizer.apply_chat_template(messages, tokenize=False, **options) == want
    options = {"return_assistant_tokens_mask": True, "return_dict": True}
    want = plain.apply_chat_template(LISTS, **options)
    assert sum(want["assistant_masks"]) > 10
    assert tokenizer.apply_chat_template(STRINGS, **options)["assistant_masks"] == want["assistant_masks"]
    assert [message["content"] for message in STRINGS] == ["Be brief.", "What is aioli?", "Garlic and oil."]
    batch = tokenizer.apply_chat_template([STRINGS, LISTS[:2]], tokenize=False)
    assert batch[0].startswith(batch[1])


def test_prefix_leaves_the_text_before_the_first_tag_alone():
    from transformers.utils.chat_template_utils import render_jinja_template

    template = "\n  start{{ messages[0]['content'][0]['text'] }}"
    rendered, _ = render_jinja_template([STRINGS], chat_template=prefix_template(template))
    assert rendered == ["\n  startBe brief."]


def test_a_template_that_reads_strings_is_not_prefixed():
    assert prefix_template("{{ messages[0]['content'] }}") == "{{ messages[0]['content'] }}"
    assert prefix_template(TEMPLATE).endswith(TEMPLATE) and prefix_template(TEMPLATE) != TEMPLATE


def test_named_templates_and_special_tokens_map(tmp_path, weights):
    src = write(tmp_path / "src", weights)
    add_tokenizer(src, jinja=True, chat_template=[{"name": "default", "template": TEMPLATE}])
    (src / "special_tokens_map.json").write_text('{"eos_token": {"content": "<end_of_sentence>"}}')
    dst = patch_checkpoint(src, tmp_path / "dst")
    settings = json.loads((dst / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == [{"name": "default", "template": prefix_template(TEMPLATE)}]
    assert json.loads((dst / "special_tokens_map.json").read_text())["pad_token"] == "<end_of_sentence>"


def test_vocab_json_alone_gives_the_id(tmp_path, weights):
    src = write(tmp_path / "src", weights)
    (src / "vocab.json").write_text('{"a": 0, "<end_of_sentence>": 7}')
    (src / "merges.txt").write_text("#version: 0.2\n")
    dst = patch_checkpoint(src, tmp_path / "dst")
    assert json.loads((dst / "generation_config.json").read_text())["eos_token_id"] == 7
    assert (dst / "merges.txt").is_file()


def test_an_own_pad_token_is_kept(tmp_path, weights):
    src = write(tmp_path / "src", weights)
    add_tokenizer(src, pad_token="<end_of_document>")
    dst = patch_checkpoint(src, tmp_path / "dst")
    assert json.loads((dst / "generation_config.json").read_text())["pad_token_id"] == 258


def test_without_a_tokenizer_the_ids_of_the_config_are_kept(tmp_path, weights):
    config = original_config(vocab_size=300, eos_token_id=5)
    dst = patch_checkpoint(write_original(tmp_path / "src", config, weights), tmp_path / "dst")
    assert json.loads((dst / "generation_config.json").read_text())["eos_token_id"] == 5
    assert not list(dst.glob("tokenizer*"))
    dst = patch_checkpoint(write(tmp_path / "src2", weights), tmp_path / "dst2")
    assert not (dst / "generation_config.json").exists()


@pytest.mark.parametrize(
    "file, text, message",
    [
        ("tokenizer_config.json", "{", "not valid JSON"),
        ("tokenizer_config.json", '{"eos_token": "<nowhere>"}', "no tokenizer file gives an id for <nowhere>"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "not as expected"),
        ("tokenizer.json", '{"added_tokens": [{"id": 900, "content": "<end_of_sentence>"}]}', "vocab_size is 300"),
        ("generation_config.json", "[]", "holds a list"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}', "not as expected"),
        ("tokenizer_config.json", '{"eos_token": "\\ud800"}', "not valid JSON"),
        ("tokenizer_config.json", '{"a": ' * 400 + "1" + "}" * 400, "nested more than 100 deep"),
        ("tokenizer.json", "[" * 100000, "not valid JSON"),
        ("config.json", '{"a": "\\uD83D"}', "not valid JSON"),
        ("config.json", '{"a": ' * 400 + "1" + "}" * 400, "nested more than 100 deep"),
        ("config.json", '{"hidden_size": ' + "9" * 5000 + "}", "not valid JSON"),
        (
            "generation_config.json",
            '{"max_new_tokens": -1}',
            "generation_config.json: .max_new_tokens. must be greater",
        ),
        ("generation_config.json", '{"pad_token_id": 300}', "generation_config.json: pad_token_id is 300"),
        ("generation_config.json", '{"eos_token_id": [1, "a"]}', "generation_config.json: eos_token_id is 'a'"),
        ("generation_config.json", '{"cache_implementation": "x"}', "generation_config.json: cache_implementation is"),
        ("generation_config.json", '{"custom_generate": "a/b"}', "generation_config.json: custom_generate is 'a/b'"),
    ],
)
def test_broken_text_files_are_named(tmp_path, weights, file, text, message):
    src = write(tmp_path / "src", weights)
    add_tokenizer(src)
    (src / file).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        patch_checkpoint(src, tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def other_pieces(folder: Path) -> None:
    """Upstream's class, and a pre-tokenizer that is not GPT-2's: single digits, beside a merge of two of them."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["12"] = tokenizer["model"]["vocab"].pop("À")  # a byte of no text
    tokenizer["model"]["merges"] = [["1", "2"]]
    single = {"type": "Digits", "individual_digits": True}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [single, tokenizer["pre_tokenizer"]]}
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", None])
def test_the_pre_tokenizer_of_the_folder_is_kept(tmp_path, weights, name):
    """Transformers 5 replaces it for the class that upstream names; patch writes another class."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    src = write(tmp_path / "src", weights)
    add_tokenizer(src, tokenizer_class=name)
    other_pieces(src)
    dst = patch_checkpoint(src, tmp_path / "dst")
    right = Tokenizer.from_file(str(src / "tokenizer.json")).encode("112 and 12").ids
    assert AutoTokenizer.from_pretrained(dst)("112 and 12").input_ids == right
    assert verify_tokenizer(dst, AutoTokenizer.from_pretrained(dst)) >= 6
    settings = dst / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": name}))
    read = AutoTokenizer.from_pretrained(dst)
    if name and name.startswith("GPT2"):
        assert read("112 and 12").input_ids != right
        with pytest.raises(CheckpointError, match="on digits token .*set tokenizer_class to PreTrainedTokenizerFast"):
            verify_tokenizer(dst, read)
    else:
        assert verify_tokenizer(dst, read)


def test_other_differences_from_tokenizer_json_are_found(tmp_path, weights):
    from transformers import AutoTokenizer

    src = write(tmp_path / "src", weights)
    add_tokenizer(src)
    dst = patch_checkpoint(src, tmp_path / "dst")
    read = AutoTokenizer.from_pretrained(dst)
    read.backend_tokenizer.decoder = None
    with pytest.raises(CheckpointError, match="decoded to another text"):
        verify_tokenizer(dst, read)
    read = AutoTokenizer.from_pretrained(dst)
    read.add_tokens([" a1"])
    with pytest.raises(CheckpointError, match="special tokens"):
        verify_tokenizer(dst, read)
    (dst / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        verify_tokenizer(dst, read)
    (dst / "tokenizer.json").unlink()
    assert verify_tokenizer(dst, read) == 0


def test_templates_in_a_folder_of_their_own_come_along(tmp_path, weights):
    from transformers import AutoTokenizer

    src = write(tmp_path / "src", weights)
    add_tokenizer(src, jinja=True)
    (src / "additional_chat_templates").mkdir()
    (src / "additional_chat_templates/tool_use.jinja").write_text("{% if tools %}TOOLS {% endif %}" + TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(patch_checkpoint(src, tmp_path / "dst"))
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]
    text = tokenizer.apply_chat_template(STRINGS, tools=tools, tokenize=False)
    assert text.startswith("TOOLS ") and "What is aioli?" in text
