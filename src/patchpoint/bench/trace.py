"""The sweep against the plain hook loop and against the machine's limit, in one process."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument
from patchpoint.models.families import adapter_for
from patchpoint.tasks.prompts import SubjectPrompt
from patchpoint.tracing import Trace, trace
from patchpoint.tracing.noise import gaussian

from .hook_loop import hook_loop_trace
from .limit import heatmap_flops, matmul_rate, synchronize

PROMPT = "The Eiffel Tower is in the city of"
SUBJECT = "The Eiffel Tower"
WORDS_PROMPT = "w464 w412 w733 w417 w8765 w318 w287 w262 w1748"
WORDS_SUBJECT = "w464 w412 w733 w417"
GIB = 2**30


@dataclass(frozen=True)
class TraceBench:
    """One comparison. Times are in seconds, medians over rounds; `rate` in operations per second."""

    model: str
    n_tokens: int
    samples: int
    sweep_seconds: float
    sweep_spread: tuple[float, float]
    """Fastest and slowest round."""
    loop_seconds: float
    flops: int
    rate: float
    peak_gib: float
    """Largest memory of the process up to the end of the sweeps, model and libraries included."""
    max_difference: float
    """Largest difference of one sample's probability between the sweep and the loop."""
    max_mean_difference: float
    """The same for means over samples, which is what a trace reports."""

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


def bench_trace(
    model: Model,
    prompt: str = PROMPT,
    subject: str = SUBJECT,
    *,
    samples: int = 10,
    rounds: int = 3,
    seed: int = 0,
) -> TraceBench:
    """Time `pp.trace` of one prompt, the hook loop and the matrix-product rate, and compare their results."""
    if rounds < 1:
        raise InvalidArgument(f"rounds must be at least 1, got {rounds}")
    found = SubjectPrompt.from_text(model, prompt, subject=subject)
    n_subject = found.subject_span[1] - found.subject_span[0]
    noise = gaussian(samples, n_subject, model.d_embed, 0.1, seed)

    def sweep() -> Trace:
        return trace(model, prompt, subject=subject, noise=noise)

    swept = sweep()
    rates, times = [], []
    for _ in range(rounds):
        rates.append(matmul_rate(model.device, model.dtype))
        times.append(_seconds(sweep, model.device))
    peak = _peak_gib(model.device)
    looped: list[torch.Tensor] = []
    loop_seconds = _seconds(
        lambda: looped.append(hook_loop_trace(model, found.ids, found.subject_span, noise, swept.answer_id)),
        model.device,
    )
    difference = swept.samples.values - looped[0].cpu().numpy()
    return TraceBench(
        model=model.name,
        n_tokens=len(found.ids),
        samples=samples,
        sweep_seconds=statistics.median(times),
        sweep_spread=(min(times), max(times)),
        loop_seconds=loop_seconds,
        flops=heatmap_flops(model, len(found.ids), found.subject_span[0], samples),
        rate=statistics.median(rates),
        peak_gib=peak,
        max_difference=float(np.abs(difference).max()),
        max_mean_difference=float(np.abs(difference.mean(axis=-1)).max()),
    )


def random_gpt2(seed: int = 0) -> Model:
    """A GPT-2 of the small size with random weights, and a vocabulary of the words w0 ... w50256."""
    config = GPT2Config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(config).eval()
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(config.vocab_size)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    return Model(hf, tokenizer, adapter_for(hf), "gpt2-small-random")


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    begun = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - begun


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
