"""Readings of clock and memory, and what a comparison with a plain loop consists of."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from patchpoint.engine import Model
from patchpoint.engine.cost import measured_rate, synchronize
from patchpoint.engine.memory import GIB
from patchpoint.errors import InvalidArgument

RATE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A sweep, a plain loop and the machine's limit. Times in seconds, `rate` in operations per second."""

    model: str
    n_tokens: int
    sweep_seconds: float
    """Median over rounds."""
    sweep_spread: tuple[float, float]
    """Fastest and slowest round."""
    loop_seconds: float
    flops: int
    """Least floating-point operations of the exact result."""
    rate: float
    """Of matrix products, median over rounds."""
    peak_gib: float
    """Largest memory of the process up to the end of the sweeps, model and libraries included."""
    max_difference: float
    """Largest difference of a single value between sweep and loop."""

    @property
    def ratio(self) -> float:
        """How many times faster the sweep is than the loop."""
        return self.loop_seconds / self.sweep_seconds

    @property
    def limit_seconds(self) -> float:
        """Time of the least arithmetic at the measured matrix-product rate."""
        return self.flops / self.rate

    @property
    def share_of_limit(self) -> float:
        """limit_seconds / sweep_seconds, 1 at the machine's limit."""
        return self.limit_seconds / self.sweep_seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain data of the comparison, for JSON."""
        derived = {name: getattr(self, name) for name in ("ratio", "limit_seconds", "share_of_limit")}
        return {**asdict(self), **derived}


@dataclass(frozen=True)
class Rounds:
    """What several rounds of one computation took."""

    times: tuple[float, ...]
    rate: float
    peak_gib: float

    @property
    def seconds(self) -> float:
        """Median."""
        return statistics.median(self.times)

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest."""
        return min(self.times), max(self.times)


def check_positive(**numbers: int) -> None:
    """InvalidArgument for a number of rounds, prompts or the like below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise InvalidArgument(f"{name} must be at least 1, got {number}")


def timed_rounds(model: Model, work: Callable[[], object], rounds: int) -> Rounds:
    """Time some work, the matrix-product rate in turn with it."""
    rates, times = [], []
    for _ in range(rounds):
        rates.append(measured_rate(model.device, model.dtype, RATE_SECONDS))
        times.append(seconds_of(work, model.device))
    return Rounds(tuple(times), statistics.median(rates), peak_bytes(model.device) / GIB)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """How long some work takes."""
    synchronize(device)
    begun = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - begun


def peak_bytes(device: torch.device) -> int:
    """Largest memory so far: of the process, or what was allocated on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    for line in _proc("status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held_bytes(device: torch.device) -> int:
    """Memory held now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    held: int = psutil.Process().memory_info().rss
    return held


def forget_peak(device: torch.device) -> None:
    """Let `peak_bytes` count from now on; where a system cannot, a peak still is of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _proc(name: str) -> str:
    try:
        return Path("/proc/self", name).read_text()
    except OSError:
        return ""
