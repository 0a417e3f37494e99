"""The experts of a mixture, by Triton kernels of our own: what Transformers calls an experts implementation.

    register()                                         # once; then Transformers knows the name "minimax_nb"
    model.set_experts_implementation("minimax_nb")     # "grouped_mm" is Transformers' default again

    from minimax_nb.experts.launch import mixture_of_experts
    out = mixture_of_experts(x, gate_up, down, chosen, weights)     # the kernels alone

95 of 100 weights are experts, so a decoded token is the reading of two experts a layer, and a long prompt
mostly their multiplications. The kernels read each chosen expert once, keep the gate, the up projection and
the silu together, and never ask the device how many tokens an expert has. They serve bf16 and fp16 on an
NVIDIA GPU without gradients; every other call goes to Transformers' default and gives what it gives, to the
bit. Weights in int8 (int8.py) are served there too; elsewhere plain.py computes with them, because
Transformers' default cannot. Figures, of an H200: notebooks/results/experts_h200.json.
"""

NAME = "minimax_nb"


def register() -> str:
    """Add the implementation to Transformers' experts interface and return its name, "minimax_nb"."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    from .interface import experts_forward

    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
    return NAME
