"""`patchpoint results import`: results of other programs as a run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from patchpoint.results import Store, open_run
from patchpoint.results.foreign import read_foreign
from patchpoint.results.imported import IMPORTED, Origin, import_facts, record_of_import

from .options import AsJson, print_json
from .trace_options import Direction, Metric, State

File = Annotated[
    Path,
    typer.Argument(
        help="JSON, JSONL or npz: for each fact its effects (token x layer), and its tokens with * behind those "
        "of the subject; also p_clean, p_corrupt, prompt, answer.",
        show_default=False,
    ),
]
Folder = Annotated[Path, typer.Option("--out", help="Folder for the run.", show_default=False)]
ModelText = Annotated[str, typer.Option("--model", help="Name of the model, kept as it is.")]
NoiseText = Annotated[str, typer.Option("--noise", help="The noise in words, kept as it is.")]
Samples = Annotated[int, typer.Option(help="Noise samples behind each value.")]
Window = Annotated[int, typer.Option(help="Layers exchanged together.")]
Transposed = Annotated[bool, typer.Option("--transposed", help="The file's effects are layer x token.")]


def import_command(
    file: File,
    out: Folder,
    model: ModelText = IMPORTED,
    state: State = Origin.state,
    window: Window = Origin.window,
    direction: Direction = Origin.direction,
    metric: Metric = Origin.metric,
    noise: NoiseText = Origin.noise,
    samples: Samples = Origin.samples,
    transposed: Transposed = False,
    as_json: AsJson = False,
) -> None:
    """Make a run of the results of another program, to look into it and average it like any other.

    Example: patchpoint results import study.json --out runs/study --model gpt2-xl
    """
    origin = Origin(
        model=model,
        state=state,
        window=window,
        direction=direction,
        metric=metric,
        noise=noise,
        samples=samples,
        transposed=transposed,
    )
    found = read_foreign(file, transposed=transposed)
    with Store.create_or_resume(out, record_of_import(found, origin)) as store:
        import_facts(found, store)
    run = open_run(out)
    if as_json:
        counts, n_layers = run.record.counts.model_dump(), found.facts[0].effect.shape[1]
        print_json({"out": str(out), "counts": counts, "layers": n_layers, "facts_sha256": found.sha256})
        return
    console = Console(highlight=False)
    n = run.record.counts.traced
    console.print(f"{n} fact{'' if n == 1 else 's'} imported into {out}", markup=False, soft_wrap=True)
    console.print(f"averages: patchpoint results show {out}", markup=False, soft_wrap=True)
