"""A few facts in words of one token each, small models, and what a heatmap of a fact must hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import reference
import reference_tracing
from patchpoint.experiments import FactSettings
from patchpoint.tasks.facts import Fact, FactFile
from words import tiny_model

ROWS = (
    ("w5 w9 w13 w2 w44", "w9 w13", "w20", "P1"),
    ("w7 w21 w22 w3", "w21 w22", "w30", "P2"),
    ("w11 w8 w2 w44 w6 w40", "w11", "w21", "P2"),
    ("w3 w14 w15 w16 w4 w41 w42", "w14 w15 w16", "w33", "P3"),
    ("w17 w18 w50 w51", "w17 w18", "w45", "P1"),
)


def ids_of(text):
    return tuple(int(word[1:]) for word in text.split())


class Laboratory:
    """A model with facts, and the same answers by hooks."""

    def __init__(self, model, facts):
        self.model, self.facts = model, facts
        self.settings = FactSettings(samples=3, seed=4, answer="attribute")

    def fact(self, number):
        return next(fact for fact in self.facts.facts if fact.number == number)

    def span(self, number, prefix=""):
        fact = self.fact(number)
        words, subject = f"{prefix} {fact.prompt}".split(), fact.subject.split()
        start = next(i for i in range(len(words)) if words[i : i + len(subject)] == subject)
        return start, start + len(subject)

    def embedded(self, ids):
        return self.model.hf.get_input_embeddings()(torch.tensor(ids)).detach()

    def unit(self):
        """Standard deviation of the embeddings of all subjects of the file."""
        return float(
            self.embedded([i for fact in self.facts.facts for i in ids_of(fact.subject)]).double().std()
        )

    def noise(self, number, std=None, samples=3, seed=4, op="add"):
        """Gaussian noise on a fact's subject; by default of 3 times the unit."""
        start, stop = self.span(number)
        random = torch.Generator().manual_seed(seed)
        values = torch.randn(samples, stop - start, self.model.d_embed, generator=random)
        return [
            (0, "embed", range(start, stop), None, op, values * (3 * self.unit() if std is None else std))
        ]

    def words(self, *texts):
        """The whole prompt in other words of the same number."""
        values = torch.stack([self.embedded(ids_of(text)) for text in texts])
        return [(0, "embed", range(values.shape[1]), None, "replace", values)]

    def heatmap(self, number, disturbance, prefix="", **asked):
        fact = self.fact(number)
        ids = ids_of(f"{prefix} {fact.prompt}")
        return reference_tracing.heatmap(self.model.hf, ids, disturbance, ids_of(fact.attribute)[0], **asked)

    def same(self, grid, disturbance, prefix="", **asked):
        """Hold a heatmap against the hook loop, and return the loop's effect."""
        effect, clean, corrupt = self.heatmap(grid.number, disturbance, prefix, **asked)
        assert np.abs(grid.effect - effect).max() < 1e-6
        assert np.abs(effect).max() > 1e-4, "a wrong site would pass unseen"
        assert grid.p_clean == pytest.approx(clean, abs=1e-6)
        assert grid.p_corrupt == pytest.approx(corrupt, abs=1e-6)
        assert grid.subject_span == self.span(grid.number, prefix)
        assert grid.direction == asked.get("direction", "restore")
        return effect

    def answered(self):
        """The same facts, each with the model's own prediction as its attribute."""
        predicted = [
            int(reference.logits(self.model.hf, ids_of(f.prompt)).argmax()) for f in self.facts.facts
        ]
        facts = [replace(f, attribute=f"w{i}") for f, i in zip(self.facts.facts, predicted, strict=True)]
        return Laboratory(self.model, FactFile(tuple(facts), (), Path("answered.json"), "answered"))


def laboratory(family):
    facts = [Fact(n, p, s, a, relation_id=r) for n, (p, s, a, r) in enumerate(ROWS, start=1)]
    return Laboratory(tiny_model(family), FactFile(tuple(facts), (), Path("facts.json"), "facts"))
