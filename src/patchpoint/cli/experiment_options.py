"""The options of `patchpoint experiment`; None where the experiment's own default stands."""

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[
    str,
    typer.Argument(help="An experiment's name; `list` describes them, `all` runs them.", show_default=False),
]
Facts = Annotated[
    Path | None,
    typer.Option(
        help="File of facts: known_1000 JSON, JSONL or CSV (prompt, subject, attribute).", show_default=False
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Facts traced per condition; skipped ones do not count.", show_default=False),
]
Samples = Annotated[int | None, typer.Option(help="Noise samples per fact (10).", show_default=False)]
Noise = Annotated[
    str | None,
    typer.Option(
        help="sX: X standard deviations of the subjects' embeddings (s3); a number; uX: uniform; m: multivariate "
        "Gaussian; tK: Student-t; replace: before any of these.",
        show_default=False,
    ),
]
State = Annotated[str | None, typer.Option(help="resid (default), mlp or attn.", show_default=False)]
Window = Annotated[
    int | None, typer.Option(help="Layers exchanged together for mlp and attn (10).", show_default=False)
]
Direction = Annotated[
    str | None,
    typer.Option(help="restore (default) or corrupt, where the experiment has none.", show_default=False),
]
Metric = Annotated[str | None, typer.Option(help="prob (default), logit or logprob.", show_default=False)]
Answer = Annotated[
    str | None,
    typer.Option(
        help="predicted (default: facts that the model answers), attribute (all facts), or token (last token of "
        "prompt + the file's prediction).",
        show_default=False,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(help="exact (default), attribution or screen: estimates, checked.", show_default=False),
]
Checked = Annotated[
    int, typer.Option(help="Facts traced exactly as well, to measure how an estimate agrees.", min=1)
]
Levels = Annotated[
    str | None,
    typer.Option(help="vary-noise: standard deviations, with commas between.", show_default=False),
]
Fact = Annotated[
    int | None, typer.Option(help="repeat: row of the file, from 1 (default: the first).", show_default=False)
]
Seeds = Annotated[int | None, typer.Option(help="repeat: how often (50).", show_default=False)]
SentencesFile = Annotated[
    Path | None,
    typer.Option(
        help="prefix, fact-position: JSON list of [true sentence, false sentence].", show_default=False
    ),
]
Orders = Annotated[
    str | None,
    typer.Option(help="fact-position: orders such as 1-2-3,3-2-1 (default: rotations).", show_default=False),
]
Against = Annotated[str | None, typer.Option(help="compare-models: the other model.", show_default=False)]
AgainstDtype = Annotated[
    str | None, typer.Option(help="compare-models: the other model's number format.", show_default=False)
]
Ratio = Annotated[
    float | None,
    typer.Option(help="calibrate: p_corrupt / p_clean to be reached.", show_default=False),
]
Kind = Annotated[
    str | None, typer.Option(help="calibrate: kind of noise, s (default), std or u.", show_default=False)
]
