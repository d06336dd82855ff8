"""How tokens are drawn: greedy, and by temperature within top-k and top-p."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_runtime.sampling import draw
from moe_runtime.step import Sampling

LOGITS = torch.tensor([2.0, 0.5, 3.0, -1.0, 2.5, 0.0])
DRAWS = 4000


def tokens(sampling: Sampling, positions: range = range(DRAWS)) -> torch.Tensor:
    drawn = draw(LOGITS.expand(len(positions), -1), [sampling] * len(positions), positions)
    return torch.tensor([token for token, _ in drawn])


def test_temperature_zero_takes_the_likeliest() -> None:
    assert tokens(Sampling(), range(3)).tolist() == [2, 2, 2]


def test_the_logarithm_is_of_the_probability_before_temperature() -> None:
    ((token, logprob),) = draw(LOGITS[None], [Sampling(temperature=0.3, seed=1)], [0])
    assert logprob == pytest.approx(LOGITS.log_softmax(-1)[token].item())


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_the_same_seed_and_position_draw_the_same_token(seed: int, position: int) -> None:
    sampling = Sampling(temperature=1.5, seed=seed)
    alone = draw(LOGITS[None], [sampling], [position])
    among = draw(torch.stack((LOGITS.flip(0), LOGITS)), [Sampling(), sampling], [3, position])
    assert alone[0] == pytest.approx(among[1])


def test_another_seed_draws_other_tokens() -> None:
    first, second = (tokens(Sampling(temperature=1.0, seed=seed), range(50)) for seed in (1, 2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    shares = tokens(Sampling(temperature=temperature)).bincount(minlength=len(LOGITS)) / DRAWS
    torch.testing.assert_close(shares, (LOGITS / temperature).softmax(-1), atol=0.03, rtol=0)


def test_top_k_leaves_the_k_likeliest() -> None:
    assert set(tokens(Sampling(temperature=5.0, top_k=3)).tolist()) == {2, 4, 0}


def test_top_p_leaves_the_fewest_that_reach_it() -> None:
    probable = LOGITS.softmax(-1)
    assert set(tokens(Sampling(temperature=1.0, top_p=(probable[2] + 0.01).item())).tolist()) == {2, 4}


@pytest.mark.parametrize("top_p", [0.0, 1e-9])
def test_top_p_of_nothing_leaves_the_likeliest(top_p: float) -> None:
    assert set(tokens(Sampling(temperature=9.0, top_p=top_p), range(200)).tolist()) == {2}


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-300])
def test_a_tiny_temperature_is_as_good_as_greedy(temperature: float) -> None:
    assert set(tokens(Sampling(temperature=temperature), range(50)).tolist()) == {2}
