"""Adversarial training: each history is moved as far as told, where the loss rises most, and the weights stay what they were."""

from __future__ import annotations

import pytest
import torch

from tasks.domain.recipe import load_recipe
from tasks.ranker.adversarial import with_worst, worst
from tasks.ranker.features import FEATURES
from tasks.ranker.model import Ranker
from tasks.ranker.packing import pack
from tasks.ranker.text import WIDTH
from tasks.ranker.tokens import TOKEN_WIDTH


def test_each_row_is_moved_by_the_radius_along_its_gradient():
    gradient, row = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0], [-2.0, 0.0]]), torch.tensor([0, 0, 1, 3])
    moved = worst(gradient, row, 4, 0.5)
    assert torch.allclose(moved, torch.tensor([[0.3, 0.0], [0.0, 0.4], [0.0, 0.0], [-0.5, 0.0]]))


def test_the_loss_is_the_mean_of_both_and_the_change_is_taken_as_given():
    tokens, row, scale = (
        torch.tensor([[1.0, 2.0], [0.5, 0.0]]),
        torch.tensor([0, 1]),
        torch.tensor(3.0, requires_grad=True),
    )
    loss = with_worst(lambda of: scale * of.square().sum(), tokens, row, 2, 0.1)
    further = [(1 + 0.1 / length) ** 2 * length**2 for length in (5**0.5, 0.5)]  # a square grows away from 0
    assert loss.item() == pytest.approx(3 * (5.25 + sum(further)) / 2, rel=1e-5)
    loss.backward()
    assert scale.grad.item() == pytest.approx(loss.item() / 3, rel=1e-5)
    assert tokens.grad is None and not tokens.requires_grad


@pytest.mark.parametrize("pooling", ["attention", "mean", "gru", "cnn"])
def test_a_model_keeps_its_weights_and_its_loss_rises_as_it_is_moved(pooling):
    torch.manual_seed(0)
    model = Ranker(load_recipe("tiny").network.model_copy(update={"pooling": pooling}))
    lengths = torch.tensor([0, 2, 5, 20])
    layout = pack(lengths.numpy())
    x, vectors, tokens = torch.randn(4, len(FEATURES)), torch.randn(4, WIDTH), torch.randn(27, TOKEN_WIDTH)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def loss(of):
        return torch.nn.functional.softplus(model.both(x, vectors, torch.arange(4), of, layout)[1]).sum()

    plain, both = loss(tokens), with_worst(loss, tokens, layout.row, 4, 0.05)
    assert both > plain
    both.backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(one.grad is not None for one in model.history.token.parameters())
