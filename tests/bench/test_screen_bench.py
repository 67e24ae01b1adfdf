"""The comparison of attribution and screen with exact heatmaps, on a tiny model that knows some made-up facts."""

import json

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import patchpoint as pp
from patchpoint.bench.screen import METHODS, bench_screen, exchange_of
from patchpoint.cli.main import main
from patchpoint.engine import Variant, sweep
from patchpoint.engine.gradients import final_gradient, layer_gradients
from patchpoint.errors import FactError, InvalidArgument
from patchpoint.tasks.facts import read_facts
from patchpoint.tasks.subject import SubjectPrompt
from patchpoint.tracing.agreement import agreement
from patchpoint.tracing.attribution import attributed
from patchpoint.tracing.corruption import corruptor_of
from patchpoint.tracing.screen import screened
from words import tiny_model

LAYERS = 12


@pytest.fixture(scope="module")
def model():
    return tiny_model("gpt2", n_layer=LAYERS)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    """Six facts, of which the model answers every second one."""
    rows = []
    for number in range(6):
        prompt = f"w{number + 1} w{number + 20} w7 w{number + 40} w3"
        predicted = int(model.run(prompt).logits[0].argmax())
        attribute = f"w{predicted}" if number % 2 else f"w{(predicted + 1) % 97}"
        rows.append({"prompt": prompt, "subject": f"w{number + 20}", "attribute": attribute})
    path = tmp_path_factory.mktemp("facts") / "facts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_the_bench_compares_methods_over_answered_facts(model, path):
    heard, facts = [], read_facts(path)
    result = bench_screen(model, facts, limit=2, samples=10, on_fact=heard.append)
    assert [fact.number for fact in result.facts] == [2, 4]
    assert tuple(heard) == result.facts
    assert set(result.methods) == {"attribution", "screen"}
    assert result.largest_difference < 1e-6
    corruptor = corruptor_of("s3").fitted(
        model,
        [SubjectPrompt.from_text(model, f.prompt, subject=f.subject) for f in facts.facts],
    )
    for fact in result.facts:
        asked = exchange_of(model, facts.facts[fact.number - 1], corruptor, 10, 0, None)
        row = facts.facts[fact.number - 1]
        trace = pp.trace(
            model, row.prompt, subject=row.subject, answer=row.attribute, noise=corruptor, samples=10
        )
        towards = np.sign(trace.total_effect)
        base = trace.corrupt_samples.values
        for name, estimated in (("attribution", attributed), ("screen", screened)):
            effect = np.nanmean(estimated(asked).samples.values - base, axis=-1)
            want = agreement(towards * effect, towards * trace.effect.values, first=asked.first)
            assert fact.agreements[name] == want
    for name, method in result.methods.items():
        recalls = [fact.agreements[name].recall for fact in result.facts]
        assert method.agreement.facts == 2
        assert method.agreement.recall.mean == pytest.approx(np.mean(recalls))
        assert list(method.recalls) == sorted(recalls)
        of_seconds = sum(f.costs[name].seconds for f in result.facts) / result.exact_seconds
        assert method.share_of_seconds == pytest.approx(of_seconds)


def test_costs_are_those_of_the_sweeps_plan(model, path):
    result = bench_screen(model, read_facts(path), limit=1, samples=10)
    fact = result.facts[0]
    screen = result.methods["screen"]
    row = read_facts(path).facts[fact.number - 1]
    asked = exchange_of(model, row, corruptor_of(0.1), 10, 0, None)
    everything = [Variant(asked.edits(*site)) for site in asked.sites()]
    assert fact.exact.flops == sweep(asked.base, everything, plan_only=True).flops
    assert 0.05 < screen.share_of_flops <= 0.2
    assert 0.05 < screen.share_with_logits <= 0.2
    assert screen.largest_share == screen.share_of_flops


class Products(TorchDispatchMode):
    """Counts floating-point operations, of backward passes as well."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def test_the_cost_of_attribution_is_what_its_backward_pass_takes(model, path):
    asked = exchange_of(model, read_facts(path).facts[1], corruptor_of(0.1), 4, 0, None)
    with Products() as counter:
        for _ in layer_gradients(asked.base, final_gradient(asked.base, "prob")):
            pass
    _, cost = METHODS["attribution"](asked)
    # Attention is counted for keys that a token may not look at too, or on some machines not at all.
    assert cost.with_logits == pytest.approx(counter.flops, rel=0.1)


def test_facts_that_cannot_be_used_are_refused(model, path, tmp_path):
    with pytest.raises(InvalidArgument, match="limit must be at least 1"):
        bench_screen(model, read_facts(path), limit=0)
    unknown = tmp_path / "unknown.jsonl"
    unknown.write_text(path.read_text().splitlines()[0])
    with pytest.raises(FactError, match="predicts the attribute of none of the 1 facts"):
        bench_screen(model, read_facts(unknown))


def test_the_command(model, path, capsys, monkeypatch):
    monkeypatch.setattr("patchpoint.cli.bench.random_gpt2", lambda seed: model)
    arguments = ["bench", "screen", "--model", "gpt2-small-random", "--facts", str(path), "--limit", "2"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--json", "--quiet"])
    assert end.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["facts"]) == 2
    assert document["samples"] == document["top"] == 10
    assert 0 <= document["methods"]["screen"]["agreement"]["recall"]["mean"] <= 1
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--samples", "3"])
    assert end.value.code == 0
    done = capsys.readouterr()
    assert "screen" in done.out
    assert "attribution" in done.out
    assert "fact 4:" in done.err
    with pytest.raises(SystemExit) as end:
        main([*arguments[:5], str(path.with_name("none.json"))])
    assert end.value.code == 2
    assert "none.json" in capsys.readouterr().err
