"""`patchpoint experiment`: the laboratory of causal tracing."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from patchpoint.doctor import Verdict
from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument
from patchpoint.experiments import FactSettings, Work
from patchpoint.experiments.catalogue import EXPERIMENTS, Experiment, experiment_named
from patchpoint.plots.run import Look, formats_named
from patchpoint.report.experiment import write_index
from patchpoint.tasks.facts import read_facts

from .doctor import diagnosed
from .experiment_options import (
    Against,
    AgainstDtype,
    Answer,
    Checked,
    Direction,
    Fact,
    Facts,
    Kind,
    Levels,
    Limit,
    Method,
    Metric,
    Name,
    Noise,
    Orders,
    Ratio,
    Samples,
    Seeds,
    SentencesFile,
    State,
    Window,
)
from .experiment_requests import (
    Given,
    command_line,
    flag,
    levels_named,
    options_for,
    orders_named,
    other_model,
    plain,
    python_call,
    sentences_in,
    settings_for,
)
from .experiment_run import Asked, document, run_asked, show
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
    print_json,
)
from .trace_options import Bos, Pictures

LIST, ALL = "list", "all"
PICTURES = "png,pdf"


def experiment_command(
    name: Name,
    facts: Facts = None,
    limit: Limit = None,
    samples: Samples = None,
    noise: Noise = None,
    state: State = None,
    window: Window = None,
    direction: Direction = None,
    metric: Metric = None,
    answer: Answer = None,
    method: Method = None,
    checked: Checked = Work.checked,
    bos: Bos = None,
    levels: Levels = None,
    fact: Fact = None,
    seeds: Seeds = None,
    sentences: SentencesFile = None,
    orders: Orders = None,
    against: Against = None,
    against_dtype: AgainstDtype = None,
    ratio: Ratio = None,
    kind: Kind = None,
    pictures: Pictures = PICTURES,
    out: Out = None,
    seed: Seed = FactSettings.seed,
    model: ModelName = DEFAULT,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """A named experiment of causal tracing over a file of facts: tables, figures and a page of the report.

    Example: patchpoint experiment gaussian --facts known_1000.json --limit 100 --out runs/lab

    What there is: patchpoint experiment list. All of them, each finished one kept: patchpoint experiment all.
    Experiments with one --out share what they measured, and the same command continues where it stopped.
    """
    if name == LIST:
        _list(as_json)
        return
    given = {
        "samples": samples,
        "noise": noise,
        "state": state,
        "window": window,
        "direction": direction,
        "metric": metric,
        "answer": answer,
        "method": method,
        "bos": bos,
    }
    given = {key: value for key, value in given.items() if value is not None}
    own = {
        "limit": plain(limit),
        "levels": levels_named(levels),
        "fact": plain(fact),
        "seeds": plain(seeds),
        "sentences": sentences_in(sentences),
        "orders": orders_named(orders),
        "against": other_model(against, against_dtype),
        "ratio": plain(ratio),
        "kind": plain(kind),
    }
    if facts is None:
        raise InvalidArgument("an experiment needs a file of facts; give --facts FILE")
    console, formats = notes(quiet), Look(formats_named(pictures)).formats
    folder, strict = out or Path("runs") / f"lab-{facts.stem}", name != ALL
    said = Given(model, (model, *(("--dtype", dtype) if dtype else ())), f"pp.load({model!r}{_code(dtype)})")
    asked = []
    for one in _chosen(name, against):
        settings = settings_for(one, given, seed, strict=strict)
        options = options_for(one, own, strict=strict)
        command = command_line(one, facts, folder, said, settings, options)
        call = python_call(one, facts, said, settings, options)
        asked.append(Asked(one, settings, options, command, call))
    file = read_facts(facts)
    loaded = model_for(model, device, dtype, allow_pickle, console)
    second = None if against is None else model_for(against, device, against_dtype, allow_pickle, console)
    work = Work(folder, memory, checked, verdicts=_verdicts([loaded, second], console))
    made = [run_asked(request, loaded, second, file, work, formats, console) for request in asked]
    index = write_index(folder)
    if as_json:
        print_json({"out": str(folder), "index": str(index), "experiments": [document(one) for one in made]})
        return
    for finished in made:
        show(finished)


def _chosen(name: str, against: str | None) -> list[Experiment]:
    """One experiment, or all; the comparison of models only where there is another one."""
    if name != ALL:
        return [experiment_named(name)]
    return [one for one in EXPERIMENTS.values() if against is not None or "against" not in one.options]


def _code(dtype: str | None) -> str:
    return f", dtype={dtype!r}" if dtype else ""


def _verdicts(models: Sequence[Model | None], console: Console) -> dict[str, Verdict]:
    """The doctor's verdicts on the models, told, by fingerprint."""
    found = {}
    for model in models:
        if model is not None:
            diagnosis = diagnosed(model, console)
            diagnosis.tell(console)
            found[model.fingerprint] = diagnosis.verdict
    return found


def _list(as_json: bool) -> None:
    """Name, question, source and options of every experiment."""
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "question": one.question,
                    "source": one.source,
                    "options": [flag(name) for name in one.options],
                    "sets_itself": list(one.fixes),
                }
                for one in EXPERIMENTS.values()
            ]
        )
        return
    table = Table()
    table.add_column("experiment", no_wrap=True)
    table.add_column("what it asks, where it comes from, its own options")
    for one in EXPERIMENTS.values():
        table.add_row(one.name, f"{one.question} {one.source}. {' '.join(map(flag, one.options))}")
    Console(highlight=False).print(table)
