"""Networks through ONNX Runtime, which runs convolutions on a CPU faster than PyTorch does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from . import weights

Network = Callable[[torch.Tensor], torch.Tensor]


def compiled(module: torch.nn.Module, input_size: tuple[int, int]) -> Network | None:
    """A network as it is now, for the processor; see `run`.

    It takes half a second for a small one to be made, and nothing when asked again for the same.

    Parameters
    ----------
    module : torch.nn.Module
        From one tensor (B, 3, h, w) to one tensor (B, ...). Later changes do not reach what is
        returned.
    input_size : (h, w)

    Returns
    -------
    callable or None
        None, with a warning, where ONNX Runtime is missing or cannot run the network; without one
        where the network has hooks, which would not be called, or no weights of 32 bits on a CPU.
    """
    if {(one.device.type, one.dtype) for one in module.parameters()} != {("cpu", torch.float32)}:
        return None
    if any(one._forward_hooks or one._forward_pre_hooks for one in module.modules()):
        return None
    session = _session(_Network(f"{weights.digest(module)} {module}", module), input_size)
    if session is None:
        return None
    return lambda pixels: run(session, pixels)[0]


def open_session(file: Path) -> Any:
    """A session of ONNX Runtime for a file's network, on one thread: `run` makes use of more.

    Raises
    ------
    ImportError
        Without onnxruntime.
    Exception
        Of onnxruntime's own types, where the file cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # older exports bring a page of warnings
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def run(session: Any, pixels: torch.Tensor, *, batches: bool = True) -> list[torch.Tensor]:
    """What a network makes of images: its outputs, (B, ...) each.

    There are as many threads as PyTorch has. Each takes some images whole, which is faster than to
    share every layer of every image and to wait for each other after it.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Of one input.
    pixels : (B, 3, h, w) float32 tensor
    batches : bool
        Whether the network takes more than one image at once.
    """
    name, threads = session.get_inputs()[0].name, torch.get_num_threads()
    count = min(threads, len(pixels)) if batches else len(pixels)
    shares = np.array_split(pixels.contiguous().numpy(), count)
    each = map if threads == 1 else _threads(threads).map
    outputs = zip(*each(lambda share: session.run(None, {name: share}), shares))
    return [torch.from_numpy(parts[0] if count == 1 else np.concatenate(parts)) for parts in outputs]


@dataclass(frozen=True)
class _Network:
    """A module that is told from others by its weights and layers."""

    identity: str
    module: torch.nn.Module = field(compare=False)


@lru_cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


@lru_cache(maxsize=2)
def _session(network: _Network, input_size: tuple[int, int]) -> Any:
    try:
        import onnx  # noqa: F401  needed by the export
        import onnxruntime  # noqa: F401
    except ImportError as error:
        _slower(str(error))
        return None
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        try:
            _export(network.module, input_size, file)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            _slower(f"no ONNX of this one ({reason})")
            return None
        return open_session(file)


def _slower(reason: str) -> None:
    warnings.warn(f"networks run in PyTorch, which is slower: {reason}", stacklevel=5)


@torch.inference_mode(False)
@torch.no_grad()
def _export(module: torch.nn.Module, input_size: tuple[int, int], file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, *input_size),),
            file,
            input_names=["pixels"],
            output_names=["output"],
            dynamic_axes={"pixels": {0: "batch"}, "output": {0: "batch"}},
            dynamo=False,  # the newer exporter takes ten times as long
        )
