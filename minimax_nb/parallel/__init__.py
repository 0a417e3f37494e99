"""Tensor parallel: N processes, each with 1/N of every layer on a GPU of its own, compute one model together.

    model, tokenizer = load("work/converted", tp=True)         # script.py, the same lines in every process
    print(Chat(model, tokenizer).send("A recipe, please."))

    torchrun --nproc-per-node 8 script.py

A process is a *rank*. Each rank reads its part of the weights from the folder: some heads of the attention, a slice of
every expert, a slice of the vocabulary in the head. The embedding, the routers and the norms between layers are on all
ranks. What a sublayer computes is a sum over its heads or over its slice, so the ranks add their results, in one
all-reduce for each sublayer, and then all of them hold the same hidden states, choose the same experts, and draw the
same token.

The pieces: ranks.py starts the processes' group and talks within it; reading.py reads a rank's part; layers.py are the
split layers; kernels.py what they need around an all-reduce on a GPU. Where one process decides what is computed, as a
server does, leading.py lets the others follow it, and launch.py starts them all. It computes no gradients.
"""

from ..lazy import names_from

__getattr__, __dir__, __all__ = names_from(
    __name__, ranks="ALONE Ranks close", reading="begin load_part", layers="split is_split"
)
