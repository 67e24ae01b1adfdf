"""Generated prompts as people and as programs read them."""

from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from patchpoint.plots.labels import prose, visible
from patchpoint.tasks.prompts import Prompts

from .task_run import Written

EXAMPLES = 2
GROUPS_SHOWN = 24


def document(written: Written) -> dict[str, Any]:
    """One task's prompts as JSON: header, screening, files and the first prompts."""
    prompts, report = written.prompts, written.report
    assert prompts.header is not None
    return {
        **prompts.header.model_dump(mode="json", exclude={"patchpoint", "version"}),
        "n": len(prompts),
        "n_tokens": len(prompts.clean.tokens[0]),
        "acceptance": report.acceptance,
        "accuracy": report.accuracy,
        "mean_logit_diff": report.mean_logit_diff,
        "groups": {
            group: {"prompts": prompts.groups.count(group), "accepted": accepted, "seen": seen}
            for group, (accepted, seen) in report.by_group().items()
        },
        "examples_dropped": dict(report.examples),
        "fillers": [str(fillers) for fillers in report.fillers],
        "first": [_prompt(prompts, number) for number in range(min(EXAMPLES, len(prompts)))],
        "prompts": str(written.path),
        "screening": [str(path) for path in written.screening],
    }


def show(console: Console, written: Written) -> None:
    """The same in the terminal."""
    prompts, report = written.prompts, written.report
    assert prompts.header is not None
    title = (
        f"{report.task}: {len(prompts)} prompts of {len(prompts.clean.tokens[0])} tokens for {report.model}, "
        f"corruption {report.corruption}, seed {report.seed}"
    )
    for line in (title, *report.lines()):
        console.print(prose(line), markup=False, soft_wrap=True)
    if len(report.by_group()) > 1:
        console.print(_group_table(written))
    console.print(example_table(prompts, EXAMPLES))
    console.print(f"prompts: {written.path}", markup=False, soft_wrap=True)
    paths = ", ".join(map(str, written.screening))
    console.print(f"every candidate's scores: {paths}", markup=False, soft_wrap=True)


def example_table(prompts: Prompts, limit: int) -> Table:
    """The first prompts with twin and answers."""
    table = Table(Column("", justify="right"), "prompt", "correct", "incorrect", show_lines=True)
    for number in range(min(limit, len(prompts))):
        one = _prompt(prompts, number)
        texts = Text("\n").join((_text(prose(one["clean"])), _text(f"twin: {prose(one['corrupt'])}", "dim")))
        table.add_row(
            str(number + 1), texts, _text(visible(one["correct"])), _text(visible(one["incorrect"]))
        )
    return table


def _prompt(prompts: Prompts, number: int) -> dict[str, str]:
    return {
        "clean": prompts.clean_texts[number],
        "corrupt": prompts.corrupt_texts[number],
        "correct": prompts.correct_texts[number],
        "incorrect": prompts.incorrect_texts[number],
    }


def _group_table(written: Written) -> Table:
    names = ("prompts", "accepted", "seen", "acceptance")
    table = Table("group", *(Column(name, justify="right") for name in names))
    groups = written.report.by_group()
    for group, (accepted, seen) in list(groups.items())[:GROUPS_SHOWN]:
        numbers = (written.prompts.groups.count(group), accepted, seen)
        table.add_row(_text(prose(group)), *map(str, numbers), f"{accepted / seen:.0%}")
    if len(groups) > GROUPS_SHOWN:
        table.caption = f"and {len(groups) - GROUPS_SHOWN} more; --json lists all"
    return table


def _text(text: str, style: str = "") -> Text:
    """Text that Rich neither interprets nor cuts short."""
    return Text(text, style=style, overflow="fold")
