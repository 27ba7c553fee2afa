"""Training of the search ranker on a made-up shop: it learns, it resumes to the same weights, and it says why it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from search_builders import TITLES, a_plan, films, judged, tiny_bert, tiny_chinese_roberta, titles_asked

from tasks.domain.errors import InputRejected
from tasks.ranker.search.encoder import SentenceEncoder, vectors_of
from tasks.ranker.search.groups import drawn_pairs, grouped
from tasks.ranker.search.head import ProductHead, fit_head, head_scores, list_softmax
from tasks.ranker.search.inputs import Inputs, hardness, make_inputs
from tasks.ranker.search.judge import ndcg
from tasks.ranker.search.match import TextMatch
from tasks.ranker.search.mix import fit_mix
from tasks.ranker.search.training import Run, Texts, Towers
from tasks.ranker.search.trees import fit_trees, tree_scores


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def inputs(bert):
    return inputs_of(SentenceEncoder(bert), titles_asked())


def inputs_of(encoder, lists) -> Inputs:
    documents = films()
    title, written = (vectors_of(encoder, [*texts, ""], 16) for texts in (TITLES, documents.written))
    return make_inputs(TextMatch(documents), lists, vectors_of(encoder, lists.queries, 8), title, written)


def a_run(folder, inputs, *, joint=True, **changes) -> Run:
    torch.manual_seed(1)
    encoder, head = SentenceEncoder(folder), None
    if joint:
        head = ProductHead(inputs.features, encoder.width)
        head.standardise(inputs.x)
    texts = Texts(encoder.words(inputs.lists.queries, 8), encoder.words(films().written, 16))
    hard = hardness(TextMatch(films()), inputs)
    return Run(Towers(encoder, head), inputs, texts, hard, a_plan(**changes), seed=3)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.towers.state_dict().items()}


@pytest.mark.parametrize("joint", [False, True])
def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path, bert, inputs, monkeypatch, joint):
    monkeypatch.setattr("tasks.ranker.search.training.SAVED_EVERY", 1)
    whole = a_run(bert, inputs, joint=joint, passes=2)
    whole.train(tmp_path / "whole", "one")
    for killed_at in (1, 5):
        run = a_run(bert, inputs, joint=joint, passes=2)

        def stop(step, steps, told, killed_at=killed_at):
            if step == killed_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run.train(tmp_path / "cut", "one", stop)
        again = a_run(bert, inputs, joint=joint, passes=2)
        again.train(tmp_path / "cut", "one")
        found = weights(again)
        assert all(torch.equal(value, found[name]) for name, value in weights(whole).items())
        (tmp_path / "cut").unlink()


def test_a_checkpoint_of_another_run_is_left_alone(tmp_path, bert, inputs):
    a_run(bert, inputs).train(tmp_path / "kept", "one")
    other = a_run(bert, inputs)
    assert len(other.train(tmp_path / "kept", "two")) == other.steps


def test_a_checkpoint_that_a_crash_of_the_machine_left_empty_is_not_in_the_way(tmp_path, bert, inputs):
    (tmp_path / "kept").write_bytes(b"")
    run = a_run(bert, inputs)
    assert len(run.train(tmp_path / "kept", "one")) == run.steps


def test_training_the_tower_brings_a_query_and_its_film_together(tmp_path, bert, inputs):
    run = a_run(bert, inputs, joint=False, passes=12)

    def quality() -> float:
        query = vectors_of(run.towers.encoder, inputs.lists.queries, 8)
        item = vectors_of(run.towers.encoder, [*films().written, ""], 16)
        return float(ndcg(inputs.lists, (query[inputs.lists.owner] * item[inputs.lists.rows]).sum(1)).mean())

    before = quality()
    losses = run.train(tmp_path / "kept", "one")
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.1
    assert quality() > before + 0.05


def test_the_head_learns_only_from_lists_that_the_tower_has_met(bert, inputs, monkeypatch):
    run, met, rehearsed = a_run(bert, inputs), set(), []
    plain = run._rehearse

    def watched(head, draw):
        met.update(run._lists(run.step).tolist())
        monkeypatch.setattr(
            "tasks.ranker.search.training.pairs_of",
            lambda of, chosen: rehearsed.append(set(chosen.tolist())) or _pairs(of, chosen),
        )
        plain(head, draw)
        monkeypatch.undo()
        assert rehearsed and all(one <= met for one in rehearsed)

    from tasks.ranker.search.head import pairs_of as _pairs

    run._rehearse = watched
    for _ in range(run.steps):
        run.train_step()
    assert len(rehearsed) == run.steps * 2


@pytest.mark.parametrize("make", [tiny_bert, tiny_chinese_roberta, lambda folder: tiny_bert(folder, layers=3)])
def test_any_encoder_of_the_right_form_can_be_trained_and_saved(tmp_path, make):
    encoder = SentenceEncoder(make(tmp_path / "encoder"))
    lists = judged(["电影", "外星 人", "heat", "🚂"] * 4, [0, 1, 2, 3] * 4)  # words outside of either vocabulary
    inputs = inputs_of(encoder, lists)
    run = a_run(tmp_path / "encoder", inputs)
    run.train(tmp_path / "kept", "one")
    run.towers.encoder.save(tmp_path / "saved")
    texts = ["电影", "heat", "🚂", "", "  "]
    found = vectors_of(SentenceEncoder(tmp_path / "saved"), texts, 8)
    assert np.array_equal(found, vectors_of(run.towers.encoder, texts, 8)) and np.isfinite(found).all()
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1, 1, 0, 0], abs=1e-2)
    assert not list((tmp_path / "saved").glob("*.bin"))


def test_low_rank_training_moves_only_its_own_matrices_and_merges_into_a_plain_encoder(tmp_path, bert, inputs):
    plain, run = SentenceEncoder(bert), a_run(bert, inputs, joint=False, lora_rank=2, learning_rate=5e-3)
    encoder = run.towers.encoder
    encoder.adapt(2, seed=0)
    run = Run(run.towers, inputs, run.texts, run.hardness, run.plan, seed=3)
    frozen = {name: value.clone() for name, value in encoder.body.state_dict().items() if "lora_" not in name}
    losses = run.train(tmp_path / "kept", "lora")
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert all(torch.equal(value, encoder.body.state_dict()[name]) for name, value in frozen.items())
    trained = encoder.embed(encoder.words(TITLES, 16))
    encoder.merge()
    assert torch.allclose(encoder.embed(encoder.words(TITLES, 16)), trained, atol=1e-5)
    encoder.save(tmp_path / "saved")
    again = SentenceEncoder(tmp_path / "saved")
    assert torch.equal(again.embed(again.words(TITLES, 16)), encoder.embed(encoder.words(TITLES, 16)))
    assert not torch.allclose(plain.embed(plain.words(TITLES, 16)), trained, atol=1e-3)


def test_a_directory_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(InputRejected, match=r"holds no config\.json"):
        SentenceEncoder(tmp_path)


def test_a_text_has_the_same_vector_alone_and_in_company(bert):
    encoder = SentenceEncoder(bert)
    texts = ["heat", "a much longer text about trains", *TITLES]
    with torch.inference_mode():
        together = encoder.embed(encoder.words(texts, 12))
        alone = torch.cat([encoder.embed(encoder.words([text], 12)) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)


def test_queries_of_one_group_share_items():
    lists = judged([f"q{n}" for n in range(64)], [n % 8 for n in range(64)], films_a_list=2)
    order = grouped(lists, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(64))

    def items(of) -> float:
        return float(np.mean([len(np.unique(lists.rows[lists.pairs(of[at : at + 8])])) for at in range(0, 64, 8)]))

    assert items(order) < 0.7 * items(np.random.default_rng(1).permutation(64))


def test_a_step_reads_a_positive_and_the_hardest_negatives_of_each_list():
    lists = judged(["heat"] * 3, [0, 1, 2], films_a_list=8)
    hard = np.tile(np.arange(8, dtype=np.float32), 3)
    picked = drawn_pairs(lists, np.arange(3), hard, np.random.default_rng(0))
    for n in range(3):
        own = picked[picked // 8 == n]
        assert len(own) == 4 and lists.grade[own].sum() == 1


def test_list_softmax_by_hand():
    scores = torch.tensor([2.0, 1.0, 0.0, 5.0, 5.0, 7.0])
    owner, positive = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    first = torch.logsumexp(scores[:3], 0) - 1.5
    assert list_softmax(scores, positive, owner, 3).item() == pytest.approx((first.item() + np.log(2)) / 2, abs=1e-6)


def test_the_head_learns_and_its_scores_do_not_depend_on_other_lists(inputs):
    head, curve = fit_head(inputs, inputs, epochs=12, seed=0)
    assert curve[-1] > 0.9 and len(curve) == 12
    alone = inputs.lists.take(np.array([5]))
    pairs = inputs.lists.pairs(np.array([5]))
    one = Inputs(alone, inputs.x[pairs], inputs.query_vec[[5]], inputs.item_vec)
    assert head_scores(head, one) == pytest.approx(head_scores(head, inputs)[pairs], abs=1e-5)


def test_an_unknown_item_and_extreme_features_get_finite_scores(inputs):
    head, _ = fit_head(inputs, inputs, epochs=1, seed=0)
    lists = judged(["heat", ""], [0, 1])
    lists.rows[0] = -1
    x = np.full((8, inputs.features), 1e30, np.float32)
    assert np.isfinite(head_scores(head, Inputs(lists, x, inputs.query_vec[:2] * 0, inputs.item_vec))).all()


@pytest.mark.parametrize("grade", [0.0, 1.0])
def test_labels_of_one_kind_train_nothing_and_say_so(bert, inputs, grade):
    lists = titles_asked()
    lists.grade[:] = grade
    flat = Inputs(lists, inputs.x, inputs.query_vec, inputs.item_vec)
    for train in (lambda: fit_head(flat, flat, 1, 0), lambda: a_run(bert, flat)):
        with pytest.raises(InputRejected, match="holds both a positive and another item"):
            train()


def test_a_loss_that_is_no_number_ends_the_run(tmp_path, bert, inputs):
    run = a_run(bert, inputs)
    with torch.no_grad():
        run.towers.log_scale.fill_(float("nan"))
    with pytest.raises(InputRejected, match=r"became nan in step 1 .*nothing was published"):
        run.train(tmp_path / "kept", "one")


def test_the_mix_trusts_what_is_right_and_leaves_out_what_is_noise():
    lists = titles_asked()
    noise = np.random.default_rng(0).normal(size=(2, len(lists.rows))).astype(np.float32)
    members = {"right": lists.grade * 3 + noise[0], "noise": noise[1]}
    mix = fit_mix(lists, members)
    weight = dict(zip(mix.members, mix.weights, strict=True))
    assert weight["right"] > 1 and abs(weight["noise"]) < 0.5
    assert ndcg(lists, mix.scores(members)).mean() >= ndcg(lists, members["right"]).mean() - 0.01


def test_trees_learn_and_are_the_same_after_their_text_form(inputs, monkeypatch):
    import lightgbm

    monkeypatch.setattr("tasks.ranker.search.trees.LEAST_TREES", 20)
    monkeypatch.setattr("tasks.ranker.search.trees.MOST_TREES", 30)

    model = fit_trees(inputs.lists, inputs.x, inputs.lists, inputs.x, seed=0)
    scores = tree_scores(model, inputs.x)
    assert model.best_iteration >= 20 and ndcg(inputs.lists, scores).mean() > 0.9
    again = lightgbm.Booster(model_str=model.model_to_string(num_iteration=model.best_iteration))
    assert np.allclose(again.predict(inputs.x), scores)
