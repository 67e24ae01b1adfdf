"""`patchpoint task generate`: prompts of one task, or of several over the same sentences, into files."""

from pathlib import Path

from rich.console import Console

from patchpoint.plots.run import formats_named
from patchpoint.tasks.generation import N_PROMPTS
from patchpoint.tasks.screening import RATIO, check_ratio

from .options import (
    DEFAULT,
    AllowPickle,
    AsJson,
    Device,
    Dtype,
    ModelName,
    Out,
    Quiet,
    Seed,
    model_for,
    notes,
    print_json,
)
from .task_files import check_formats, made_folder
from .task_options import (
    Candidates,
    Correct,
    Corruption,
    File,
    Incorrect,
    Names,
    Number,
    Pictures,
    Ratio,
    Screen,
    Settings,
    Slots,
    TemplateText,
    Vary,
)
from .task_report import document, show
from .task_run import generated
from .task_settings import asked_tasks, named, slots_of, together, words_of
from .trace_options import Bos


def generate_command(
    names: Names,
    n: Number = N_PROMPTS,
    corruption: Corruption = None,
    settings: Settings = None,
    ratio: Ratio = RATIO,
    screen: Screen = True,
    candidates: Candidates = None,
    bos: Bos = None,
    file: File = None,
    template: TemplateText = None,
    slot: Slots = None,
    correct: Correct = None,
    incorrect: Incorrect = None,
    vary: Vary = None,
    pictures: Pictures = "png",
    out: Out = None,
    seed: Seed = 0,
    model: ModelName = DEFAULT,
    device: Device = None,
    dtype: Dtype = None,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prompts that a model answers, each with its corrupted twin, and what was dropped and why.

    Example: patchpoint task generate ioi --n 64 --out runs/ioi

    The same sentences with numbers, number words and months, kept where the model can do all three:
    patchpoint task generate numerals numwords months --out runs/sequences

    Prompts of your own:
    patchpoint task generate custom --file capitals.csv --template "The capital of {country} is" --correct " {capital}"
    """
    noted, formats = notes(quiet), formats_named(pictures)
    check_formats(formats)
    check_ratio(ratio)
    own = {
        "file": file,
        "template": template,
        "slots": slots_of(slot) if slot else None,
        "correct": correct,
        "incorrect": incorrect,
        "vary": words_of(vary) if vary else None,
    }
    tasks = asked_tasks(names, together(named(settings or (), "--set"), own))
    screening = {"corruption": corruption, "ratio": ratio, "screen": screen, "candidates": candidates}
    for task in tasks.values():
        task.corruption(corruption)
    folder = made_folder(out or Path("runs") / f"task-{'-'.join(tasks)}")
    loaded = model_for(model, device, dtype, allow_pickle, noted)
    written = generated(tasks, loaded, n, seed, {**screening, "bos": bos}, folder, formats, noted)
    if as_json:
        print_json({"out": str(folder), "tasks": [document(one) for one in written]})
        return
    console = Console(highlight=False)
    for number, one in enumerate(written):
        if number:
            console.print()
        show(console, one)
