#!/usr/bin/env bash
# transformers serve passes over what a request asks for: a temperature does not sample, a stop string stays, n is 1.
#
# Versions   torch 2.13.0, transformers 5.24.0, fastapi 0.165.0, uvicorn 0.54.0, openai 3.57.0; Python 3.11, CPU.
# Behaviour  A folder whose generation_config.json does not say "do_sample": true:
#            1. "temperature": 2 gives the greedy reply, whatever the seed. It sets the number and not do_sample. So
#               temperature and seed are without effect, and nothing says so to the client.
#            2. "stop": the reply ends with the stop string. OpenAI's API, and vLLM, leave it out.
#            3. "n": 3 gives one choice. The server logs that it ignores the field; the client reads 200.
#            4. A message with an image, for a model that reads text only: the image is dropped, status 200.
#            5. --continuous-batching: each request of MiniMax gives 500, "Invalid layer type: linear_attention". Its
#               check of the model falls back for other modalities, and not for layers that it does not know.
# Where      transformers/cli/serving/utils.py: _build_generation_config, use_continuous_batching,
#            get_processor_inputs_from_messages; chat_completion.py: UNUSED_CHAT_COMPLETION_FIELDS.
# Instead    "do_sample": true in generation_config.json; cut at the stop string in the client; one request a choice.
#
# Seen on 2026-11-28 (a random model):
#    temperature 2, seeds 1 to 4: 1 different replies, the greedy one
#    the same, do_sample in generation_config.json: 4 different replies
#    stop: the reply ends with the stop string
#    n = 3: 1 choice
#    an image for a text model: 200
#    continuous batching: 500
#
# Exit code 0 while all of it holds, another one when something changes or the script no longer runs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 huggingface_hub==2.4.0 \
    numpy==2.4.6 accelerate==1.15.0 jinja2==3.1.6 fastapi==0.165.0 uvicorn==0.54.0 openai==3.57.0
cd "$work"
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, MiniMaxConfig, MiniMaxForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

logging.disable_progress_bar()
alphabet = pre_tokenizers.ByteLevel.alphabet()
file = Tokenizer(models.BPE())
file.pre_tokenizer, file.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
trainer = trainers.BpeTrainer(vocab_size=257, initial_alphabet=alphabet, special_tokens=["</s>"])
file.train_from_iterator(["abc"], trainer)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=file, eos_token="</s>", pad_token="</s>")
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
torch.manual_seed(0)
sizes = dict(vocab_size=257, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_local_experts=4)
heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, bos_token_id=None, eos_token_id=0)
model = MiniMaxForCausalLM(MiniMaxConfig(**sizes, **heads, layer_types=["linear_attention", "full_attention"]))
letters = torch.tensor(tokenizer.convert_tokens_to_ids(list("abcdefghijklmnop")))
with torch.no_grad():
    model.lm_head.weight[[i for i in range(257) if i not in letters]] *= 0.01  # it writes letters
    model.lm_head.weight[letters] *= 2
for name, sampling in (("greedy", {}), ("sampling", {"do_sample": True})):
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0, **sampling)
    model.save_pretrained(name)
    tokenizer.save_pretrained(name)


@contextlib.contextmanager
def serving(*flags):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["venv/bin/transformers", "serve", "--host", "127.0.0.1", "--port", str(port), *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        while server.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            time.sleep(0.5)
        try:
            yield f"http://127.0.0.1:{port}/v1/chat/completions"
        finally:
            server.terminate()


def ask(url, name, content="abc", **asked):
    """Status, and the texts of the choices."""
    body = {"model": name, "messages": [{"role": "user", "content": content}], "max_tokens": 12, **asked}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, [choice["message"]["content"] for choice in json.load(answer)["choices"]]
    except urllib.error.HTTPError as error:
        return error.code, []


with serving() as url:
    _, (greedy,) = ask(url, "greedy")
    drawn = {}
    for name in ("greedy", "sampling"):
        drawn[name] = {ask(url, name, temperature=2, seed=seed)[1][0] for seed in range(1, 5)}
    print(f"temperature 2, seeds 1 to 4: {len(drawn['greedy'])} different replies, the greedy one")
    print(f"the same, do_sample in generation_config.json: {len(drawn['sampling'])} different replies")
    assert drawn["greedy"] == {greedy} and len(drawn["sampling"]) > 1
    stop = greedy[4:6]
    _, (cut,) = ask(url, "greedy", stop=[stop])
    print("stop: the reply ends with the stop string")
    assert cut.endswith(stop), (greedy, stop, cut)
    _, choices = ask(url, "greedy", n=3)
    print(f"n = 3: {len(choices)} choice")
    assert len(choices) == 1
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    status, _ = ask(url, "greedy", [{"type": "text", "text": "abc"}, image])
    print(f"an image for a text model: {status}")
    assert status == 200
with serving("--continuous-batching") as url:
    status, _ = ask(url, "greedy")
    print(f"continuous batching: {status}")
    assert status == 500
PYTHON
