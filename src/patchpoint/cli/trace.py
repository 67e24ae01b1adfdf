"""`patchpoint trace`: where a model keeps one fact, or each fact of a file."""

from pathlib import Path
from typing import Any

from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.experiments import FactSettings
from patchpoint.plots.run import Look, formats_named
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
from .trace_options import (
    Answer,
    Bos,
    Direction,
    Facts,
    FreshNoise,
    Incorrect,
    Limit,
    Method,
    Metric,
    Noise,
    Pictures,
    Prompt,
    Samples,
    Sever,
    State,
    Style,
    Subject,
    Window,
)
from .trace_prompt import trace_prompt

PICTURES = "png,html"


def trace_command(
    prompt: Prompt = None,
    subject: Subject = None,
    facts: Facts = None,
    limit: Limit = None,
    answer: Answer = None,
    incorrect: Incorrect = None,
    samples: Samples = SAMPLES,
    noise: Noise = NOISE,
    state: State = "resid",
    window: Window = WINDOW,
    direction: Direction = "restore",
    metric: Metric = "prob",
    sever: Sever = None,
    fresh_noise: FreshNoise = False,
    method: Method = "exact",
    bos: Bos = None,
    pictures: Pictures = PICTURES,
    style: Style = "patchpoint",
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
    asked: dict[str, Any] = {
        "samples": samples,
        "noise": noise,
        "state": state,
        "window": window,
        "direction": direction,
        "metric": metric,
        "sever": sever,
        "fresh_noise": fresh_noise,
        "method": method,
    }
    check_settings(**asked)
    settings = {**asked, "seed": seed, "bos": bos}
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
