"""The sweep against the plain hook loop and against the machine's limit, in one process."""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from patchpoint.engine import Model
from patchpoint.models.families import adapter_for
from patchpoint.tasks.subject import SubjectPrompt
from patchpoint.tracing import Trace, trace
from patchpoint.tracing.noise import gaussian

from .hook_loop import hook_loop_trace
from .limit import heatmap_flops
from .timing import Comparison, check_positive, seconds_of, timed_rounds

PROMPT = "The Eiffel Tower is in the city of"
SUBJECT = "The Eiffel Tower"
WORDS_PROMPT = "w464 w412 w733 w417 w8765 w318 w287 w262 w1748"
WORDS_SUBJECT = "w464 w412 w733 w417"


@dataclass(frozen=True, kw_only=True)
class TraceBench(Comparison):
    """A heatmap of causal tracing compared; `max_difference` is of one sample's probability."""

    samples: int
    max_mean_difference: float
    """The same for means over samples, which is what a trace reports."""


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
    check_positive(samples=samples, rounds=rounds)
    found = SubjectPrompt.from_text(model, prompt, subject=subject)
    n_subject = found.subject_span[1] - found.subject_span[0]
    noise = gaussian(samples, n_subject, model.d_embed, 0.1, seed)

    def sweep() -> Trace:
        return trace(model, prompt, subject=subject, noise=noise)

    swept = sweep()
    taken = timed_rounds(model, sweep, rounds)
    looped: list[torch.Tensor] = []
    loop_seconds = seconds_of(
        lambda: looped.append(hook_loop_trace(model, found.ids, found.subject_span, noise, swept.answer_id)),
        model.device,
    )
    difference = swept.samples.values - looped[0].cpu().numpy()
    return TraceBench(
        model=model.name,
        n_tokens=len(found.ids),
        samples=samples,
        sweep_seconds=taken.seconds,
        sweep_spread=taken.spread,
        loop_seconds=loop_seconds,
        flops=heatmap_flops(model, len(found.ids), found.subject_span[0], samples),
        rate=taken.rate,
        peak_gib=taken.peak_gib,
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
