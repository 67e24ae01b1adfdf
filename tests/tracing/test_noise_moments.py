"""Moments of the noise, over many draws of one seed."""

import numpy as np
import pytest
import torch

from patchpoint.tasks.subject import SubjectPrompt
from patchpoint.tracing.corruption import Multivariate, Student, corruptor_of
from patchpoint.tracing.noise import Spread
from words import tiny_model

IDS = (5, 9, 13, 21, 2, 44, 7)
MODEL = tiny_model("gpt2")
PROMPT = SubjectPrompt.from_text(MODEL, "w5 w9 w13 w21 w2 w44 w7", subject="w9 w13 w21")
OTHERS = [("w3 w1 w4 w8", "w1 w4"), ("w60 w61 w3", "w60")]


def drawn(noise, samples):
    return corruptor_of(noise).drawn(MODEL, PROMPT, samples, 0)


MANY = 20_000


def many_numbers(corruption):
    return corruption.values.double().flatten(0, 1)


@pytest.mark.parametrize(("noise", "std"), [("0.5", 0.5), ("u0.5", 0.5 / 3**0.5), ("0", 0.0)])
def test_moments_of_noise_with_independent_numbers(noise, std):
    corruption = drawn(noise, samples=MANY)
    numbers = many_numbers(corruption)
    assert corruption.std == pytest.approx(std)
    assert float(numbers.std()) == pytest.approx(std, rel=5e-3)
    assert float(numbers.mean()) == pytest.approx(0, abs=2e-3)
    if noise.startswith("u"):
        assert 0.4999 < float(numbers.max()) <= 0.5
        assert -0.4999 > float(numbers.min()) >= -0.5


def fitted_moments():
    """Mean and covariance over tokens, one of them twice, and what was fitted to them."""
    prompts = [
        PROMPT,
        *(SubjectPrompt.from_text(MODEL, text, subject=subject) for text, subject in OTHERS),
    ]
    tokens = MODEL.hf.get_input_embeddings().weight.detach()[[*IDS, 3, 1, 4, 8, 60, 61, 3]].double().numpy()
    return prompts, tokens.mean(0), np.cov(tokens, rowvar=False)


def test_a_multivariate_gaussian_has_the_mean_and_covariance_of_the_embeddings():
    prompts, mean, covariance = fitted_moments()
    numbers = many_numbers(Multivariate().fitted(MODEL, prompts).drawn(MODEL, PROMPT, MANY, 0)).numpy()
    np.testing.assert_allclose(numbers.mean(0), mean, atol=5e-3)
    np.testing.assert_allclose(np.cov(numbers, rowvar=False), covariance, atol=2e-3)
    assert abs(covariance - np.diag(np.diag(covariance))).max() > 0.03
    assert abs(mean).max() > 0.05


def test_a_student_t_has_the_second_moments_of_the_gaussian_and_heavier_tails():
    prompts, mean, covariance = fitted_moments()
    numbers = many_numbers(Student(8.0).fitted(MODEL, prompts).drawn(MODEL, PROMPT, MANY, 0)).numpy()
    np.testing.assert_allclose(
        numbers.T @ numbers / len(numbers), covariance + np.outer(mean, mean), atol=5e-3
    )
    # E sqrt((K - 2) / chi2_K) with K = 8 is sqrt(3) Gamma(3.5) / Gamma(4).
    np.testing.assert_allclose(numbers.mean(0), 0.9595 * mean, atol=5e-3)
    standard = (numbers - numbers.mean(0)) / numbers.std(0)
    # The excess kurtosis of a t distribution is 6 / (K - 4).
    assert (standard**4).mean() - 3 == pytest.approx(1.5, abs=0.4)
    along = numbers @ np.linalg.eigh(covariance)[1][:, -2:]
    assert np.corrcoef(along.T**2)[0, 1] > 0.1, "a vector's numbers share one chi2"


def test_fractional_degrees_shrink_the_mean_as_they_should():
    corruption = drawn("t1e9", samples=50)
    np.testing.assert_allclose(corruption.values, drawn("m", samples=50).values, rtol=1e-3, atol=1e-4)
    spread = Spread(torch.ones(32), torch.zeros(1, 32))
    numbers = Student(2.5, spread).drawn(MODEL, PROMPT, MANY, 0).values
    # sqrt(0.25) Gamma(0.75) / Gamma(1.25)
    assert float(numbers.mean()) == pytest.approx(0.6760, abs=0.01)
    assert float(numbers[:, :, 0].std()) > 0.1
    assert torch.equal(numbers[..., :1].expand_as(numbers), numbers)
