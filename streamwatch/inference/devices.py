"""Which devices there are, and what their threads and pictures need."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from streamwatch.config import DeviceSettings
from streamwatch.domain import Image
from streamwatch.errors import DeviceError


def choose_devices(names: Sequence[str]) -> list[str]:
    """`auto` is every CUDA device, else the CPU. Raises DeviceError for one that is not there."""
    chosen: list[str] = []
    for name in names:
        if name == "auto":
            chosen += [f"cuda:{index}" for index in range(_cuda_count())] or ["cpu"]
            continue
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise DeviceError(f"device.devices: {name!r} is not a device; try auto, cpu or cuda:0") from error
        if device.type == "cuda" and (device.index or 0) >= _cuda_count():
            raise DeviceError(f"device.devices: {name!r} is not there; this machine has {_cuda_count()} CUDA devices")
        chosen.append(f"cuda:{device.index or 0}" if device.type == "cuda" else name)
    return list(dict.fromkeys(chosen))


def torch_threads(settings: DeviceSettings, device: str) -> int:
    """Threads of torch on the device's own thread; a GPU needs one to feed it.

    On a CPU one core is left to decoding and the event loop: torch's threads wait for each other at every layer, so on
    a machine without a free core for each of them a frame takes seconds instead of milliseconds.
    """
    if torch.device(device).type != "cpu":
        return 1
    if settings.threads:
        return settings.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def largest_batch(device: torch.device, per_thread: int) -> int:
    """Pictures that one call of a network should take; `per_thread` is that for each of a CPU's threads.

    There large batches are slower than small ones: they need more memory than the allocator keeps, so that each call
    gets it anew from the system, a page at a time. A GPU takes what it is given.
    """
    return per_thread * torch.get_num_threads() if device.type == "cpu" else sys.maxsize


def device_name(device: str) -> str:
    """What people call it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.backends.cpu.get_cpu_capability()})"


def host_image(image: Any) -> Image:
    """The frame's pixels as a numpy array, wherever they live."""
    if isinstance(image, np.ndarray):
        return image
    tensor = from_dlpack(image)
    array: Image = tensor.cpu().numpy()
    return array


def _cuda_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
