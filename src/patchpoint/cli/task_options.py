"""The options of `patchpoint task`."""

from pathlib import Path
from typing import Annotated

import typer

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help="Tasks of `patchpoint task list`; of several, the same sentences, kept where all of them pass.",
        show_default=False,
    ),
]
Number = Annotated[int, typer.Option("--n", help="Prompts wanted.", min=1)]
Corruption = Annotated[
    str | None,
    typer.Option(
        help="How twins are made (default: the task's first); resampled: another prompt of the task.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SETTING=VALUE",
        help="A setting of the task, such as template=pure; may be given again.",
        show_default=False,
    ),
]
Ratio = Annotated[
    float,
    typer.Option(
        help="A prompt is kept when the correct answer is so many times as likely as the incorrect."
    ),
]
Screen = Annotated[
    bool, typer.Option("--screen/--no-screen", help="Keep only prompts that the model answers correctly.")
]
Candidates = Annotated[
    int | None,
    typer.Option(
        help="Most prompts that the model looks at (default: 16 for each one asked).",
        show_default=False,
        min=1,
    ),
]
File = Annotated[
    Path | None,
    typer.Option(
        help="custom: JSONL or CSV of pairs, or of rows for a template's slots.", show_default=False
    ),
]
TemplateText = Annotated[
    str | None,
    typer.Option(
        "--template",
        help='The task\'s template by name; custom: a text with slots, "The {animal} sat on the".',
        show_default=False,
    ),
]
Slots = Annotated[
    list[str] | None,
    typer.Option(
        "--slot",
        metavar="SLOT=A,B,C",
        help="custom: the words of a slot; may be given again.",
        show_default=False,
    ),
]
Correct = Annotated[
    str | None,
    typer.Option(help='custom: the correct answer, with slots, " {capital}".', show_default=False),
]
Incorrect = Annotated[
    str | None, typer.Option(help="custom: the incorrect answer, with slots.", show_default=False)
]
Vary = Annotated[
    str | None,
    typer.Option(
        help="custom: slots that differ in the twin, with commas between (default: all).", show_default=False
    ),
]
Pictures = Annotated[
    str, typer.Option(help="Formats of the histograms: png, svg, pdf, with commas between; or none.")
]
CheckedModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Known name, Hugging Face id, folder or .gguf file; the same as --model.",
        show_default=False,
    ),
]
OtherModel = Annotated[
    str | None,
    typer.Option("--model", help="The model, as MODEL (default: smollm2-135m).", show_default=False),
]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Only this task; may be given again.", show_default=False),
]
TableFile = Annotated[
    Path | None, typer.Option("--out", help="CSV file for the table.", show_default=False, metavar="FILE")
]
PromptFile = Annotated[
    Path,
    typer.Argument(help="Prompts that `patchpoint task generate` wrote.", metavar="FILE", show_default=False),
]
Limit = Annotated[int, typer.Option(help="Prompts shown, from the first.", min=0)]
FactFile = Annotated[
    Path, typer.Option("--out", help="JSONL file to write.", metavar="FILE", show_default=False)
]
