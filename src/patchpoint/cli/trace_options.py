"""The options of `patchpoint trace`."""

from pathlib import Path
from typing import Annotated

import typer

Prompt = Annotated[str | None, typer.Argument(help="The prompt, up to the answer.", show_default=False)]
Subject = Annotated[
    str | None,
    typer.Option(help="The part of the prompt to corrupt, as it stands there.", show_default=False),
]
Facts = Annotated[
    Path | None,
    typer.Option(
        help="File of facts: known_1000 JSON, JSONL or CSV (prompt, subject, attribute).",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Stop after so many traced facts; skipped ones do not count.", show_default=False),
]
Answer = Annotated[
    str | None,
    typer.Option(
        help="Answer to score (default: the prediction). With --facts: predicted, attribute or token.",
        show_default=False,
    ),
]
Incorrect = Annotated[
    str | None, typer.Option(help="The other answer of metric logit_diff.", show_default=False)
]
Samples = Annotated[int, typer.Option(help="Noise samples per fact.")]
Noise = Annotated[
    str,
    typer.Option(
        help="sX: X standard deviations of the subjects' embeddings; a number; uX: uniform; m: multivariate Gaussian; "
        "tK: Student-t; replace: before any of these; shuffle."
    ),
]
Sever = Annotated[
    str | None,
    typer.Option(
        help="mlp or attn: behind a restored state these outputs of its token stay corrupted.",
        show_default=False,
    ),
]
FreshNoise = Annotated[bool, typer.Option("--fresh-noise", help="New noise for every site.")]
Method = Annotated[str, typer.Option(help="exact, or the estimates attribution and screen.")]
State = Annotated[str, typer.Option(help="resid, mlp or attn.")]
Window = Annotated[int, typer.Option(help="Layers exchanged together for mlp and attn.")]
Direction = Annotated[str, typer.Option(help="restore (clean into corrupted) or corrupt (the reverse).")]
Metric = Annotated[str, typer.Option(help="prob, logit, logprob or logit_diff.")]
Bos = Annotated[
    bool | None,
    typer.Option(
        "--bos/--no-bos",
        help="Put the BOS token first (default: the tokenizer's habit).",
        show_default=False,
    ),
]
Pictures = Annotated[str, typer.Option(help="Formats: png, svg, pdf, html, with commas between.")]
Style = Annotated[str, typer.Option(help="patchpoint (diverging, centred on 0) or rome.")]
