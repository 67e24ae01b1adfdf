"""`patchpoint trace`: where a model keeps one fact, or each fact of a file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.plots.run import Look, formats_named
from patchpoint.results.fact_run import FactSettings
from patchpoint.tasks.facts import read_facts
from patchpoint.tracing.trace import NOISE, SAMPLES, SEED, WINDOW, check_settings

from .options import (
    DEFAULT,
    AllowPickle,
    AsJson,
    Device,
    Dtype,
    Memory,
    ModelName,
    Out,
    Quiet,
    Seed,
    model_for,
    notes,
)
from .trace_facts import trace_file
from .trace_prompt import trace_prompt

PICTURES = "png,html"


def trace_command(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt, up to the answer.", show_default=False)
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(help="The part of the prompt to corrupt, as it stands there.", show_default=False),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(
            help="File of facts: known_1000 JSON, JSONL or CSV (prompt, subject, attribute).",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Stop after so many traced facts; skipped ones do not count.", show_default=False),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            help="Answer to score (default: the prediction). With --facts: predicted or attribute.",
            show_default=False,
        ),
    ] = None,
    incorrect: Annotated[
        str | None, typer.Option(help="The other answer of metric logit_diff.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(help="Noise samples per fact.")] = SAMPLES,
    noise: Annotated[
        str, typer.Option(help="sX: X standard deviations of the subjects' embeddings; or a number.")
    ] = NOISE,
    state: Annotated[str, typer.Option(help="resid, mlp or attn.")] = "resid",
    window: Annotated[int, typer.Option(help="Layers exchanged together for mlp and attn.")] = WINDOW,
    direction: Annotated[
        str, typer.Option(help="restore (clean into corrupted) or corrupt (the reverse).")
    ] = "restore",
    metric: Annotated[str, typer.Option(help="prob, logit, logprob or logit_diff.")] = "prob",
    bos: Annotated[
        bool | None,
        typer.Option(
            "--bos/--no-bos",
            help="Put the BOS token first (default: the tokenizer's habit).",
            show_default=False,
        ),
    ] = None,
    pictures: Annotated[
        str, typer.Option(help="Formats: png, svg, pdf, html, with commas between.")
    ] = PICTURES,
    style: Annotated[str, typer.Option(help="patchpoint (diverging, centred on 0) or rome.")] = "patchpoint",
    out: Out = None,
    seed: Seed = SEED,
    model: ModelName = DEFAULT,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Causal tracing: which hidden state, restored into a corrupted run, brings the answer back.

    Example: patchpoint trace "The Eiffel Tower is in the city of" --subject "The Eiffel Tower" --out runs/eiffel

    A file of facts, continued where it stopped when the same command is run again:
    patchpoint trace --facts known_1000.json --limit 100 --out runs/known
    """
    console = notes(quiet)
    look = Look(formats_named(pictures), style)
    check_settings(
        state=state, direction=direction, metric=metric, samples=samples, window=window, noise=noise
    )
    settings: dict[str, Any] = {
        "samples": samples,
        "noise": noise,
        "seed": seed,
        "state": state,
        "window": window,
        "direction": direction,
        "metric": metric,
        "bos": bos,
    }
    if facts is None:
        if prompt is None or subject is None:
            raise PromptError("give a prompt and its --subject, or a file of facts with --facts")
        if limit is not None:
            raise InvalidArgument("--limit counts the facts of a file; give --facts as well, or leave it out")
        settings |= {"subject": subject, "answer": answer, "incorrect": incorrect}
        loaded = model_for(model, device, dtype, allow_pickle, console)
        trace_prompt(loaded, prompt, settings, memory, out, look, as_json, console)
        return
    if prompt is not None or subject is not None or incorrect is not None:
        raise InvalidArgument(
            "--facts brings its own prompts, subjects and answers; leave out PROMPT, --subject and --incorrect"
        )
    chosen = FactSettings(**settings, answer=answer or "predicted", limit=limit)
    file = read_facts(facts)
    loaded = model_for(model, device, dtype, allow_pickle, console)
    trace_file(
        loaded, file, chosen, memory, out or Path("runs") / f"trace-{facts.stem}", look, as_json, console
    )
