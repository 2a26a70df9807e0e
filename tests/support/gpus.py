"""GPUs that are not there: tensors that know their GPU, computed on the CPU, and copies that arrive only if waited for.

PyTorch for CPUs has no kernels for GPUs, not even one that allocates memory. The stand-in has two of that kind: they
return a tensor on the CPU whose class says that it is on a GPU. All that is computed from it has that class, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from torch import Tensor

STALE = 0.5
"""The value of all numbers that were not waited for."""


class GpuTensor(Tensor):
    """A tensor on a GPU."""

    gpus: ClassVar[Gpus]
    _gpu: torch.device

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._gpu

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, base = kwargs or {}, cast(Any, super())
        gpu = next(arg._gpu for arg in _flatten((*args, *kwargs.values())) if isinstance(arg, GpuTensor))
        if func is Tensor.numpy:
            raise TypeError("a tensor on a GPU is no array")
        result = base.__torch_function__(func, types, args, kwargs)
        if func is Tensor.cpu or (func is Tensor.to and args[1:] == ("cpu",)):
            return cls.gpus.fetch(result, gpu, wait=not kwargs.get("non_blocking"))
        for tensor in _flatten((result,)):
            if isinstance(tensor, GpuTensor):
                tensor._gpu = gpu
        return result


def _flatten(items: Sequence[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, (tuple, list)):
            yield from _flatten(item)
        else:
            yield item


class Stream:
    """The copies that a GPU was given, in order."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.copies: list[Callable[[], object]] = []
        self.done = 0

    def wait(self, position: int) -> None:
        """Do the copies before a position."""
        for copy in self.copies[self.done : position]:
            copy()
        self.done = max(self.done, position)


class Gpus:
    """A machine with GPUs: the stand-ins for the functions of ``torch.cuda``."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.contexts: set[int] = set()
        """GPUs whose memory this process has taken some of."""
        self.streams = [Stream(torch.device("cuda", number)) for number in range(count)]
        self._thread = threading.local()

    @property
    def current(self) -> int:
        """The current GPU of this thread."""
        number: int = getattr(self._thread, "current", 0)
        return number

    def set_device(self, device: object) -> None:
        self._thread.current = self.index(device)
        self.contexts.add(self.current)

    @contextmanager
    def device(self, device: object) -> Iterator[None]:
        before = self.current
        self.set_device(device)
        try:
            yield
        finally:
            self._thread.current = before  # which takes no memory there

    def current_stream(self, device: object = None) -> Stream:
        return self.streams[self.current if device is None else self.index(device)]

    def use_current(self) -> None:
        """Do something that needs the context of the current GPU."""
        self.contexts.add(self.current)

    def pin(self, tensor: Tensor) -> Tensor:
        self.use_current()
        return tensor

    def allocate(self, device: torch.device, tensor: Tensor) -> Tensor:
        self.contexts.add(self.index(device))
        allocated = tensor.as_subclass(GpuTensor)
        allocated._gpu = torch.device(device)
        return allocated

    def fetch(self, tensor: Tensor, gpu: torch.device, wait: bool) -> Tensor:
        """Copy a tensor to the CPU, which is done when its GPU's stream is waited for."""
        source = tensor.as_subclass(Tensor)
        copied, stream = torch.full_like(source, STALE), self.streams[gpu.index]
        stream.copies.append(lambda: np.copyto(copied.numpy(), source.numpy()))
        if wait:
            stream.wait(len(stream.copies))
        return copied

    @staticmethod
    def index(device: object) -> int:
        index: int | None = torch.device(device).index  # type: ignore[call-overload]
        assert index is not None
        return index


class Event:
    """A mark in the stream of a GPU."""

    gpus: ClassVar[Gpus]

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.stream: Stream | None = None
        self.position = 0

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or self.gpus.current_stream()
        self.position = len(self.stream.copies)
        self.gpus.contexts.add(self.stream.device.index)

    def synchronize(self) -> None:
        self.gpus.use_current()
        assert self.stream is not None
        self.stream.wait(self.position)

    def elapsed_time(self, end: Event) -> float:
        assert self.stream is end.stream
        return 1000.0 * (end.position - self.position)


@contextmanager
def stand_in(count: int) -> Iterator[Gpus]:
    """Put GPUs into this machine until the block ends."""
    gpus = Gpus(count)
    kernels = cast(Any, torch.library.Library)("aten", "IMPL")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GpuTensor, "gpus", gpus, raising=False)
        patch.setattr(Event, "gpus", gpus, raising=False)
        patch.setattr(Tensor, "pin_memory", lambda tensor: gpus.pin(tensor))
        # Modules set the data of their parameters by default, which keeps the class that these have on the CPU.
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        stand_ins = {
            "_lazy_init": lambda: None,
            "device_count": lambda: count,
            "get_device_capability": lambda _: (8, 0),
            "set_device": gpus.set_device,
            "device": gpus.device,
            "current_stream": gpus.current_stream,
            "empty_cache": gpus.use_current,
            "Event": Event,
        }
        for name, function in stand_ins.items():
            patch.setattr(torch.cuda, name, function)

        def empty(size: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
            return gpus.allocate(device, torch.empty(size, dtype=dtype))

        def empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
            return gpus.allocate(device, torch.empty_strided(size, stride, dtype=dtype))

        kernels.impl("empty.memory_format", empty, "CUDA")
        kernels.impl("empty_strided", empty_strided, "CUDA")
        try:
            yield gpus
        finally:
            kernels._destroy()
