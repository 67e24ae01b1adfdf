"""`patchpoint task show`: prompts of a file, token by token."""

from itertools import cycle

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from patchpoint.plots.labels import prose, visible
from patchpoint.tasks.prompt_files import Header, Row, read_prompts

from .options import AsJson, print_json
from .task_options import Limit, PromptFile

SHOWN = 3
HUES = ("cyan", "green", "yellow", "magenta", "blue", "red")
CHANGED = "changed"
"""The span from the first to the last token in which twins differ: no part of the text of its own."""


def show_command(file: PromptFile, limit: Limit = SHOWN, as_json: AsJson = False) -> None:
    """Prompts of a file: where they come from, texts and answers, and their tokens with the parts they belong to.

    Example: patchpoint task show runs/ioi/prompts.jsonl --limit 3
    """
    header, rows = read_prompts(file)
    shown = rows[:limit]
    if as_json:
        print_json(
            {
                "file": str(file),
                "header": header.model_dump(mode="json"),
                "n": len(rows),
                "prompts": [row.model_dump(mode="json") for row in shown],
            }
        )
        return
    console = Console(highlight=False)
    console.print(_header_table(str(file), header, rows))
    if shown:
        console.print(_prompt_table(shown))
        console.print("tokens: | between, ␣ a space, * differs in the twin; spans from 0, end left out")
    for number, row in enumerate(shown, start=1):
        for line in _strips(number, row):
            console.print(line, soft_wrap=True)
    if len(rows) > len(shown):
        console.print(f"{len(shown)} of {len(rows)} prompts shown; --limit {len(rows)} shows all")


def _header_table(path: str, header: Header, rows: list[Row]) -> Table:
    table = Table(show_header=False, title=_text(prose(path)))
    lengths = sorted({len(row.clean_ids) for row in rows})
    seen = (
        "not known" if header.candidates is None else f"{header.accepted} of {header.candidates} candidates"
    )
    told = {
        "task": header.task,
        "corruption": header.corruption or "given with the prompts",
        "prompts": f"{len(rows)}, of {' or '.join(map(str, lengths))} tokens",
        "model": header.model,
        "tokenizer": header.tokenizer_fingerprint,
        "BOS token": "first" if header.bos else "none",
        "seed": "none" if header.seed is None else header.seed,
        "screening": "none" if header.ratio is None else f"ratio {header.ratio:g}, accepted {seen}",
        "dropped": "\n".join(f"{n}: {reason}" for reason, n in header.dropped.items()) or "none",
    }
    for name, value in told.items():
        table.add_row(name, _text(str(value)))
    return table


def _prompt_table(rows: list[Row]) -> Table:
    table = Table(
        Column("", justify="right"), "group", "prompt and twin", "correct", "incorrect", show_lines=True
    )
    for number, row in enumerate(rows, start=1):
        texts = Text("\n").join((_text(prose(row.clean)), _text(prose(row.corrupt), "dim")))
        answers = (_text(visible(answer)) for answer in (row.correct, row.incorrect))
        table.add_row(str(number), _text(prose(row.group)), texts, *answers)
    return table


def _strips(number: int, row: Row) -> list[Text]:
    """Tokens of a prompt and its twin, and below them where each part stands."""
    hues = dict(zip((role for role in row.spans if role != CHANGED), cycle(HUES), strict=False))
    styles = [""] * len(row.clean_tokens)
    for role, hue in hues.items():
        start, stop = row.spans[role]
        styles[start:stop] = [f"underline {hue}"] * (stop - start)
    differ = [one != other for one, other in zip(row.clean_ids, row.corrupt_ids, strict=True)]
    parts = Text("   parts ")
    for role, hue in hues.items():
        start, stop = row.spans[role]
        star = "*" if role in row.corrupted_roles else ""
        words = "".join(row.clean_tokens[start:stop])
        parts.append(f" {role}{star} {start}:{stop} {visible(words)} ", f"underline {hue}").append(" ")
    return [
        Text(f"{number:>2} clean ").append_text(_strip(row.clean_tokens, styles, differ)),
        Text("   twin  ").append_text(_strip(row.corrupt_tokens, styles, differ)),
        *([parts] if hues else []),
    ]


def _strip(tokens: tuple[str, ...], styles: list[str], differ: list[bool]) -> Text:
    shown = (
        Text(f"{visible(token)}{'*' if changed else ''}", f"bold {style}" if changed else style)
        for token, style, changed in zip(tokens, styles, differ, strict=True)
    )
    return Text("|", "dim").join(shown)


def _text(text: str, style: str = "") -> Text:
    """Text that Rich neither interprets nor cuts short."""
    return Text(text, style=style, overflow="fold")
