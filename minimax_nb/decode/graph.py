"""A step recorded as one CUDA graph for each device, and played back with the tokens of the day."""

import torch
from torch import Tensor

from .buffers import Buffers
from .step import Part, run


class Eager:
    """The same without a graph, for a CPU."""

    def __init__(self, parts: list[Part], buffers: Buffers):
        self.parts, self.buffers = parts, buffers

    def __call__(self, ids: Tensor) -> Tensor:
        x = ids
        for part in self.parts:
            x = run(part, x.to(part.device), self.buffers)
        return x


class Graphs:
    """Recorded once for a batch size and a room for keys: a graph knows addresses, not names."""

    def __init__(self, parts: list[Part], buffers: Buffers):
        self.recorded = []
        saved = {index: state.clone() for index, state in buffers.states.items()}
        try:
            self._record(parts, buffers)
        finally:  # its first run was a token too; the key that it left lies behind the text and is written again
            for index, state in saved.items():
                buffers.states[index].copy_(state)

    def _record(self, parts: list[Part], buffers: Buffers) -> None:
        x = torch.zeros(buffers.batch, dtype=torch.long, device=parts[0].device)
        for part in parts:
            with torch.cuda.device(part.device):
                x = x if x.device == part.device else torch.zeros_like(x, device=part.device)
                run(part, x, buffers)  # compiles kernels and makes workspaces, which a recording must not
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                # PyTorch's own stream for recording is the first GPU's; other threads may compute meanwhile
                stream = torch.cuda.Stream(part.device)
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    out = run(part, x, buffers)
            self.recorded.append((part.device, graph, x, out))
            x = out

    def __call__(self, ids: Tensor) -> Tensor:
        """Token ids (b,) -> logits (b, vocabulary)."""
        x, result = ids, torch.empty_like(self.recorded[-1][3])  # what may lack memory comes before what changes states
        for device, graph, given, out in self.recorded:
            with torch.cuda.device(device):
                if given is not x:
                    given.copy_(x)  # between devices PyTorch lets each stream wait for the other
                graph.replay()
            x = out
        return result.copy_(x)
