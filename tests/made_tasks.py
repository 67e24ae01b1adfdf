"""Tasks over the words of the made tokenizer, of which a tiny model answers some."""

from dataclasses import replace
from functools import cache
from itertools import count

from patchpoint.cli import task_check
from patchpoint.tasks import catalogue
from patchpoint.tasks.case import Case
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template
from words import tiny_model

WORDS = [f"w{number}" for number in range(1, 15)]


@cache
def small():
    return tiny_model("gpt2")


@cache
def ranked(text):
    """Every word's number, the likeliest next one first."""
    return small().run(text, keep=()).logits[0].argsort(descending=True).tolist()


def echo(*, last: str = "w7", hard: int = 2) -> Task:
    """The model's own prediction; of `hard` cases in a row the first wants another word."""
    template = Template("pair", "{a} {b} " + last)

    def cases(lexicon, corruption, draw):
        words = lexicon.fitting("words", WORDS, [(template, "a"), (template, "b")])
        for number in count():
            a, b, other = draw.sample(words, 3)
            clean = {"a": a, "b": b}
            order = ranked(template.fill(clean).text)
            right = order[-1] if number % hard == 0 else order[0]
            yield Case(
                template=template,
                clean=clean,
                corrupt={"a": a, "b": other},
                correct=f" w{right}",
                incorrect=f" w{order[40]}",
                group=("first", "second", "third")[number % 3],
            )

    return Task(f"echo last={last}", "Says what the model says.", "Nobody 1900", ("other",), cases)


def echo_again(*, last: str = "w9", hard: int = 3) -> Task:
    """The same with another last word."""
    return echo(last=last, hard=hard)


def hopeless(*, last: str = "w7") -> Task:
    """Never what the model says."""
    return replace(echo(last=last, hard=1), name="hopeless")


def empty() -> Task:
    """Has no cases."""
    return Task("empty", "Nothing.", "Nobody 1900", ("other",), lambda lexicon, corruption, draw: iter(()))


MADE = {"echo": echo, "echo-again": echo_again, "hopeless": hopeless, "empty": empty}


def task_command(run, folder, tmp_path, monkeypatch):
    """Runs `patchpoint task` in an empty folder, with these tasks among the others and alone to be checked."""
    monkeypatch.chdir(tmp_path)
    for name, maker in MADE.items():
        monkeypatch.setitem(catalogue.TASKS, name, maker)
    monkeypatch.setattr(task_check, "CHECKED", tuple((name, {}) for name in MADE))

    def call(verb, *words):
        named = ("--model", folder) if verb in ("generate", "check") else ()
        return run("task", verb, *named, *words)

    return call
