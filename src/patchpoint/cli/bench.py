"""`patchpoint bench`: the claims about speed and memory, measured on this machine."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from patchpoint.bench.trace import (
    PROMPT,
    SUBJECT,
    WORDS_PROMPT,
    WORDS_SUBJECT,
    TraceBench,
    bench_trace,
    random_gpt2,
)

from .options import (
    DEFAULT,
    AllowPickle,
    AsJson,
    Device,
    Dtype,
    ModelName,
    Quiet,
    Seed,
    model_for,
    notes,
    print_json,
)

RANDOM = "gpt2-small-random"

app = typer.Typer(help="Measure speed and memory as ratios, in one process.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Measure speed and memory as ratios, in one process."""


@app.command("trace")
def trace_bench(
    model: ModelName = DEFAULT,
    samples: Annotated[int, typer.Option(help="Noise samples.")] = 10,
    rounds: Annotated[int, typer.Option(help="Times the sweep is timed; the median counts.")] = 3,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The sweep against the plain hook loop and the machine's matrix-product rate.

    A random GPT-2 of the small size needs no download:
    patchpoint bench trace --model gpt2-small-random
    """
    console = notes(quiet)
    with console.status("measuring: three sweeps, then the hook loop, about two minutes"):
        if model == RANDOM:
            result = bench_trace(
                random_gpt2(seed), WORDS_PROMPT, WORDS_SUBJECT, samples=samples, rounds=rounds, seed=seed
            )
        else:
            loaded = model_for(model, device, dtype, allow_pickle, console)
            result = bench_trace(loaded, PROMPT, SUBJECT, samples=samples, rounds=rounds, seed=seed)
    if as_json:
        print_json(result.to_dict())
    else:
        Console().print(_table(result))


def _table(result: TraceBench) -> Table:
    table = Table(
        "measure", "value", title=f"{result.model}, {result.n_tokens} tokens, {result.samples} samples"
    )
    low, high = result.sweep_spread
    for name, value in (
        ("sweep", f"{result.sweep_seconds:.2f} s (from {low:.2f} to {high:.2f})"),
        ("hook loop", f"{result.loop_seconds:.2f} s"),
        ("ratio", f"{result.ratio:.2f} x faster"),
        ("least arithmetic", f"{result.flops / 1e9:.1f} GFLOP"),
        ("matrix-product rate", f"{result.rate / 1e9:.1f} GFLOP/s"),
        ("limit", f"{result.limit_seconds:.2f} s"),
        ("share of the limit", f"{result.share_of_limit:.1%}"),
        ("peak memory", f"{result.peak_gib:.2f} GiB"),
        ("largest difference of a sample", f"{result.max_difference:.1e}"),
        ("largest difference of a mean", f"{result.max_mean_difference:.1e}"),
    ):
        table.add_row(name, value)
    return table
