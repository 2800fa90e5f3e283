"""A network made ready to run: what is kept between looks, and how its work is done.

Work is done in pieces: reading a prefix, predicting words, a velocity, drawing a chunk. "eager": plain torch,
nothing computed that is not there; the reference. "compiled": the pieces through torch.compile, with shapes
that never change. "graphs": CUDA graphs; a piece, or a whole tick, is recorded once and replayed. What is
recorded does not depend on what is said: lengths are masks on the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from backbone.errors import UserError
from backbone.frames import Frames
from backbone.inference import Run
from backbone.network import Network

WAYS = ("eager", "compiled", "graphs")
PIECES = ("read", "predict", "velocity")  # of work, that are worth compiling
WARM_UP = 3  # runs before a recording: kernels are chosen, workspaces made


class Engine:
    """Gives out runs. A run's stores are used again at the next look, so take one look at a time."""

    def __init__(self, network: Network, static: bool = False):
        self.network, self.how, self.static = network, "eager", static
        self.whole_ticks = False  # one recording, in which the last plan is taken to hold
        self.forget()

    def prepare(self, how: str, backend: str = "inductor") -> None:
        """Choose how the work is done; backend: of torch.compile. UserError if there is no such way here;
        where nothing can be compiled (no compiler), that is said and the network stays as it is.
        """
        if how not in WAYS:
            raise UserError(f"prepare: expected one of {', '.join(WAYS)}, got '{how}'")
        device = self.network.device
        if how == "graphs" and device.type != "cuda":
            raise UserError(f"prepare: expected a CUDA device for 'graphs', got '{device.type}'")
        if how == "compiled":
            try:
                torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.ones(8, device=device))
            except Exception as error:  # no C++ compiler, no Triton, an old card: many types, one meaning
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                warnings.warn(f"prepare: cannot compile here, staying '{self.how}' ({reason})", stacklevel=2)
                return
        self.how, self.static, self.backend = how, how != "eager", backend
        self.whole_ticks = how == "graphs"
        self.forget()

    def fix_shapes(self) -> None:
        """Compute also what is not there, so that no shape depends on what is seen or said, and no sample on
        its batch-mates, to the last bit."""
        self.static = True
        self.forget()

    def forget(self) -> None:
        """Begin anew, with stores of its own (for a copy of an engine)."""
        self.frames = Frames(self.network)
        self._runs: dict[tuple[int, int], Run] = {}

    def look(self, batch: int = 1, chunks: int = 1) -> Run:
        """An empty run for so many samples."""
        key = batch, chunks
        if key not in self._runs:
            ways = {"eager": lambda: None, "compiled": lambda: Compiled(self.backend), "graphs": Replays}
            self._runs[key] = Run(self.network, batch, chunks, self.static, ways[self.how]())
        return self._runs[key].reset()

    def quietly(self) -> AbstractContextManager:
        """To compute in: nothing is kept for gradients. Inference mode saves a tenth on a CPU, but what is
        made in it cannot be traced.
        """
        return torch.no_grad() if self.how == "compiled" else torch.inference_mode()


class Compiled:
    """Work through torch.compile, piece by piece: what only strings pieces together is left as it is."""

    def __init__(self, backend: str):
        self.backend, self._made, self._inside = backend, {}, False

    def __call__(self, name: tuple, work: Callable, tensors: Sequence[Tensor]):
        if self._inside or name[0] not in PIECES:
            return work(*tensors)
        key = name, tuple((tuple(t.shape), t.dtype) for t in tensors)
        self._inside = True
        try:
            if key not in self._made:
                work(*tensors)  # tables that are kept are made now, not while it is traced
                # Inductor's wrapper in C++: in Python it takes longer than the work of a small network.
                more = {"options": {"cpp_wrapper": True}} if self.backend == "inductor" else {}
                self._made[key] = torch.compile(
                    work, fullgraph=True, dynamic=False, backend=self.backend, **more
                )
            return self._made[key](*tensors)
        finally:
            self._inside = False


class Replays:
    """Work as CUDA graphs, one for each name and shape."""

    def __init__(self):
        self._recorded: dict[tuple, _Recorded] = {}
        self._recording = False

    def __call__(self, name: tuple, work: Callable, tensors: Sequence[Tensor]):
        if self._recording:  # a part of something larger
            return work(*tensors)
        key = name, tuple((tuple(t.shape), t.dtype) for t in tensors)
        if key not in self._recorded:
            self._recording = True
            try:
                self._recorded[key] = _Recorded(work, tensors)
            finally:
                self._recording = False
        return self._recorded[key].replay(tensors)


class _Recorded:
    def __init__(self, work: Callable, tensors: Sequence[Tensor]):
        self.inputs = [tensor.clone() for tensor in tensors]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                work(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = work(*self.inputs)

    def replay(self, tensors: Sequence[Tensor]):
        for mine, given in zip(self.inputs, tensors, strict=True):
            mine.copy_(given, non_blocking=True)
        self.graph.replay()
        return _copied(self.outputs)  # the next replay writes over them


def _copied(outputs):
    if isinstance(outputs, Tensor):
        return outputs.clone()
    if isinstance(outputs, dict):
        return {name: _copied(value) for name, value in outputs.items()}
    return tuple(_copied(value) for value in outputs)
