"""Static decoding: one new token a call, with nothing allocated, nothing grown and nothing decided on the way.

The model's own forward pass is written for any number of tokens. For a single one most of its time is not spent
reading weights, which is all that has to be done, but in Python and in launching small kernels. The step here knows
that there is one token: states are updated in place, keys and values go into buffers that are longer than needed, the
kernels are fused where a launch costs more than its work, and on a GPU the whole is one CUDA graph a device.

    use_decoding(model, "static")    # model(...), model.generate and Chat take the step from now on, where they can
    use_decoding(model, "plain")     # the model's own forward pass again

The pieces: dispatch.py decides which calls are steps; decoder.py holds the buffers and lends them to one cache at a
time; step.py is the step itself, written in the operations of torch_ops.py or triton_ops.py; graph.py records it.
"""

from ..lazy import names_from

__getattr__, __dir__, __all__ = names_from(__name__, dispatch="MODES use_decoding plainly problem require described")
