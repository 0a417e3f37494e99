"""Does the loaded tokenizer give the ids that the folder's tokenizer.json gives?

It need not. A tokenizer first cuts a text into pieces (the pre-tokenizer), then merges bytes within each
piece. MiniMax's tokenizer_config.json names the class GPT2Tokenizer, and for it Transformers 5 puts GPT-2's
pre-tokenizer in the place of the one in tokenizer.json, without a word (docs/upstream/pre_tokenizer.py). The
text then reaches the model in ids that it was not trained on. `patch_checkpoint` therefore writes
`KEEPS_THE_FILE` as the class, and `verify_tokenizer` compares what was loaded with the file, read by the
tokenizers library.

    verify_tokenizer(folder, AutoTokenizer.from_pretrained(folder))
"""

from pathlib import Path

from ..errors import CheckpointError
from .files import DOWNLOAD

KEEPS_THE_FILE = "PreTrainedTokenizerFast"  # takes tokenizer.json as it is, in Transformers 4 and 5
SAMPLES = {
    "digits": "In 2024 it cost 1234567 or 3.14159, not 12,345.67: 45108, 007, 1e-5.",
    "spaces": " two  spaces,   three, a tab\tand\n\nlines \n\n\n  of  nothing \r\n\t end   ",
    "code": "def f(x):\n    if x<=1 and not y_2:  # don't\n\treturn {'k': [x**2, f'{x!r}']};\n",
    "Chinese": "蛋黄酱怎么做？用３个蛋黄、250毫升油，搅拌10分钟。好！",
    "other scripts": "Ünïcode e\u0301 ﬁ … «naïve» Привет, こんにちは 🙂👩‍🍳 I'LL we've",
}


def verify_tokenizer(folder: Path, tokenizer) -> int:
    """The number of texts on which `tokenizer` and `folder`/tokenizer.json agree.

    They must give the same ids, and the same text for these ids. Raises CheckpointError at the first difference. 0
    without a tokenizer.json: there is nothing to compare with.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return 0
    file = _read(path)
    special = " a1 ".join(token.content for token in file.get_added_tokens_decoder().values())
    samples = SAMPLES | {"special tokens": f"x{special} y"}
    for name, text in samples.items():
        want = file.encode(text, add_special_tokens=False).ids
        got = tokenizer(text, add_special_tokens=False)["input_ids"]
        if got != want:
            raise CheckpointError(_difference(folder, tokenizer, name, _first_difference(got, want)))
        back = tokenizer.decode(want, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if back != file.decode(want, skip_special_tokens=False):
            raise CheckpointError(_difference(folder, tokenizer, name, "the ids are decoded to another text"))
    return len(samples)


def _read(path: Path):
    from tokenizers import Tokenizer

    try:
        file = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a plain Exception
        raise CheckpointError(f"{path} cannot be read ({error}): {DOWNLOAD}") from None
    file.no_truncation()
    file.no_padding()
    return file


def _difference(folder: Path, tokenizer, name: str, what: str) -> str:
    return (
        f"{folder / 'tokenizer_config.json'}: Transformers reads tokenizer.json as {type(tokenizer).__name__}, "
        f"and on {name} {what}: set tokenizer_class to {KEEPS_THE_FILE}, or convert the original again"
    )


def _first_difference(got: list[int], want: list[int]) -> str:
    same = (a == b for a, b in zip(got, want, strict=False))
    at = next((i for i, equal in enumerate(same) if not equal), min(len(got), len(want)))
    return f"token {at} is {got[at : at + 3]} where the file gives {want[at : at + 3]}"
