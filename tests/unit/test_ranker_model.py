"""The network: rows do not see each other, padding is invisible, and what is zeroed is silent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.compression.low_rank import with_low_rank_head
from tasks.domain.recipe import load_recipe
from tasks.ranker.features import FEATURES, FROM_TEXT
from tasks.ranker.loss import log_odds, slate_softmax
from tasks.ranker.model import Ranker
from tasks.ranker.packing import pack
from tasks.ranker.text import WIDTH
from tasks.ranker.tokens import MAX_TOKENS, TOKEN_WIDTH

ROWS = 12


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Ranker(load_recipe("tiny").network).eval()


@pytest.fixture(scope="module")
def rows():
    torch.manual_seed(1)
    lengths = torch.tensor([0, 0, 1, 2, 3, 3, 5, 7, 10, 14, 19, 20])
    mask = (torch.arange(MAX_TOKENS) < lengths[:, None]).float()
    tokens = torch.randn(ROWS, MAX_TOKENS, TOKEN_WIDTH) * mask[:, :, None]
    return torch.randn(ROWS, len(FEATURES)), torch.randn(ROWS, WIDTH), tokens, mask


def test_a_row_scores_alone_as_in_company(model, rows):
    with torch.inference_mode():
        together = model.full(*rows)
        alone = torch.cat([model.full(*(part[n : n + 1] for part in rows)) for n in range(ROWS)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_what_padding_holds_is_not_read(model, rows):
    x, vectors, tokens, mask = rows
    noisy = tokens + 100 * (1 - mask)[:, :, None]
    with torch.inference_mode():
        assert torch.allclose(model.full(x, vectors, tokens, mask), model.full(x, vectors, noisy, mask), atol=1e-5)


def packed(rows):
    """The rows as training reads them."""
    x, vectors, tokens, mask = rows
    order = torch.randperm(len(x))  # a table of texts in another order than the rows
    return x, vectors[order], torch.argsort(order), tokens[mask.bool()], pack(mask.sum(1).int().numpy())


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_training_on_packed_histories_is_the_same_function_with_the_same_gradients(rows, layers):
    torch.manual_seed(0)
    model = Ranker(load_recipe("tiny").network.model_copy(update={"layers": layers, "heads": 4}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.eval()
    base, full = model.both(*packed(rows))
    assert torch.allclose(full, model.full(*rows), atol=1e-4)
    assert torch.allclose(base, model.base(*rows[:2]), atol=1e-5)
    towards = torch.randn(ROWS)
    found = torch.autograd.grad((full * towards).sum(), list(model.parameters()))
    wanted = torch.autograd.grad((model.full(*rows) * towards).sum(), list(model.parameters()))
    for name, ours, theirs in zip(dict(model.named_parameters()), found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()) + 1e-5), name


@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_of_products_in_bf16_point_where_those_in_fp32_do(rows, layers):
    torch.manual_seed(0)
    model = Ranker(load_recipe("tiny").network.model_copy(update={"layers": layers, "heads": 4})).eval()
    read, towards = packed(rows), torch.randn(ROWS)
    found = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            full = model.both(*read)[1]
        gradients = torch.autograd.grad((full.float() * towards).sum(), list(model.parameters()), allow_unused=True)
        found.append(torch.cat([one.flatten() for one in gradients if one is not None]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99


def test_zeroed_the_history_and_the_text_are_silent(rows):
    torch.manual_seed(0)
    model = Ranker(load_recipe("tiny").network).eval()
    x, vectors, tokens, mask = rows
    other_x = x.clone()
    other_x[:, list(FROM_TEXT)] += 1.0
    with torch.inference_mode():
        assert not torch.allclose(model.full(x, vectors, tokens, mask), model.full(other_x, -vectors, -tokens, mask))
        model.zeroed = True
        before, after = model.full(x, vectors, tokens, mask), model.full(other_x, -vectors, -tokens, mask)
        assert torch.equal(before, after)
        assert torch.equal(before, model.base(x, vectors))


def test_a_feature_that_never_varies_is_left_out(model, rows):
    x, vectors, tokens, mask = rows
    model.standardise(np.zeros(len(FEATURES), np.float32), np.r_[0.0, np.ones(len(FEATURES) - 1)].astype(np.float32))
    changed = x.clone()
    changed[:, 0] = 1e6
    with torch.inference_mode():
        assert torch.equal(model.base(x, vectors), model.base(changed, vectors))


def test_a_factorised_head_of_full_rank_is_the_same_head(model, rows):
    thin, energy = with_low_rank_head(model, rank=10_000)
    assert energy == pytest.approx(1.0)
    with torch.inference_mode():
        assert torch.allclose(thin.full(*rows), model.full(*rows), atol=1e-4)
    _, less = with_low_rank_head(model, rank=2)
    assert less < 1.0


def test_slate_softmax_by_hand():
    scores, label = torch.tensor([1.0, 0.0, 2.0, 0.5]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    weight, slate = torch.tensor([1.0, 3.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1])
    first = np.log(np.e**1 + 3) - 1
    second = np.log(np.e**2 + np.e**0.5) - 0.5
    assert slate_softmax(scores, label, weight, slate, 2).item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_log_odds_weighs_rows_by_what_they_stand_for():
    loss = log_odds(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 24.0]))
    assert loss.item() == pytest.approx(np.log(2))
    sure = log_odds(torch.tensor([0.0, -9.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 24.0]))
    assert sure < loss


@pytest.fixture(scope="module")
def averaging():
    torch.manual_seed(0)
    return Ranker(load_recipe("tiny").network.model_copy(update={"pooling": "mean"})).eval()


def test_pooled_by_mean_padding_and_order_of_the_tokens_are_not_read(averaging, rows):
    x, vectors, tokens, mask = rows
    noisy = tokens + 100 * (1 - mask)[:, :, None]
    with torch.inference_mode():
        scores = averaging.full(x, vectors, tokens, mask)
        assert torch.allclose(scores, averaging.full(x, vectors, noisy, mask), atol=1e-5)
        turned = averaging.full(x, vectors, tokens.flip(1), mask.flip(1))
        assert torch.allclose(scores, turned, atol=1e-5)
        assert not torch.allclose(scores, averaging.full(x, vectors, -tokens, mask))


def test_pooled_by_mean_packed_histories_are_the_same_function(averaging, rows):
    with torch.inference_mode():
        _, full = averaging.both(*packed(rows))
        assert torch.allclose(full, averaging.full(*rows), atol=1e-5)


@pytest.mark.parametrize("pooling", ["gru", "cnn"])
def test_read_one_after_the_other_tokens_have_an_order_padding_is_not_read_and_packed_they_are_the_same(rows, pooling):
    torch.manual_seed(0)
    model = Ranker(load_recipe("tiny").network.model_copy(update={"pooling": pooling})).eval()
    x, vectors, tokens, mask = rows
    noisy, swapped = tokens + 100 * (1 - mask)[:, :, None], tokens.clone()
    swapped[:, [0, 1]] = tokens[:, [1, 0]]
    short = slice(3, 7)  # two to five tokens: a GRU forgets those further back
    with torch.inference_mode():
        scores = model.full(x, vectors, tokens, mask)
        assert torch.allclose(scores, model.full(x, vectors, noisy, mask), atol=1e-5)
        assert torch.allclose(scores, model.both(*packed(rows))[1], atol=1e-5)
        other = model.full(x, vectors, swapped, mask)
        assert not torch.isclose(scores, other, atol=1e-6)[short].any()
        assert torch.equal(
            model.history(model.inputs(x, vectors), tokens, mask)[:2].isfinite(), torch.ones(2, 16).bool()
        )


def test_several_members_score_their_mean_and_start_apart(rows):
    torch.manual_seed(0)
    model = Ranker(load_recipe("tiny").network.model_copy(update={"members": 3})).eval()
    with torch.inference_mode():
        for stage, given in (("base", rows[:2]), ("full", rows)):
            together = getattr(model, stage)(*given)
            alone = [getattr(member, stage)(*given) for member in model.others]
            assert not torch.allclose(*alone)
            own = 3 * together - sum(alone)
            assert torch.allclose(own, model.both(*packed(rows))[stage == "full"], atol=1e-4)
    thin, energy = with_low_rank_head(model, rank=10_000)
    assert energy == pytest.approx(1.0)
    with torch.inference_mode():
        assert torch.allclose(thin.full(*rows), model.full(*rows), atol=1e-4)
