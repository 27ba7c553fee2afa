"""compress on the made-up shop with the tiny recipe: what variants cost and lose, and what becomes of one that cannot be made."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tasks.compress import compress, lost_by_stage
from tasks.compression.variants import batch_dependence
from tasks.ranker.cuda import WEIGHTS
from tasks.ranker.device import CUDA, is_here
from tasks.ranker.judge import judge, mean_of
from tasks.ranker.runtime import PARENT, OpenVinoScorer, TorchScorer
from tasks.ranker.text import QueryEncoder
from tests.tiny_training import PARTITION, RECIPE, ROOT


def test_int8_stays_close_to_its_parent(compressed, model, slates):
    out, told = compressed
    assert told["chosen"] in ("int8", "int8-low-rank"), told["variants"]
    small, parent = OpenVinoScorer(out / "model"), TorchScorer.load(model[0])
    x, rows = slates[0].ranked.x, slates[0].ranked.candidates
    vectors = slates[0].ranked.profile.items.vectors(rows)
    assert np.corrcoef(small.base(x, vectors), parent.base(x, vectors))[0, 1] > 0.99
    assert mean_of(judge(small, one) for one in slates)["ndcg_at_10[all]"] == pytest.approx(
        mean_of(judge(parent, one) for one in slates)["ndcg_at_10[all]"], abs=0.03
    )


def test_no_score_depends_on_its_batch_mates(compressed, slates):
    scorer = OpenVinoScorer(compressed[0] / "model")
    assert batch_dependence(scorer, slates[0]) <= 1e-5


def test_a_variant_whose_scores_depend_on_their_mates_is_seen(slates):
    class Centred:
        def base(self, x, item_vec):
            return x[:, 0] - x[:, 0].mean()

        def full(self, x, item_vec, tokens, mask):
            return self.base(x, item_vec)

    assert batch_dependence(Centred(), slates[0]) > 1e-5


def test_the_front_names_every_variant_and_its_price(compressed):
    front = json.loads((compressed[0] / "front.json").read_text())
    assert [one["name"] for one in front["variants"]] == list(RECIPE.compression.variants)
    assert all(one["cost"]["bytes"] > 0 and one["cost"]["cpu_ms_1000"] > 0 for one in front["variants"])
    assert (compressed[0] / "front.png").stat().st_size > 1_000
    assert front["text"]["mean_cosine"] > 0.98 and front["text"]["bytes"] < front["text"]["original_bytes"] / 3


def test_the_front_says_where_the_loss_comes_from_and_what_a_process_takes(compressed):
    front = json.loads((compressed[0] / "front.json").read_text())
    assert set(front["lost"]) == {"all", "stage 1", "stage 2"} and not front["dropped"]
    chosen = next(one for one in front["variants"] if one["name"] == front["chosen"])
    for metric, lost in front["lost"]["all"].items():
        assert lost == pytest.approx(chosen["quality"][metric] - chosen["parent"][metric])
    for one in front["variants"]:
        assert 0 < one["cost"]["p50_ms"] <= one["cost"]["p95_ms"] <= one["cost"]["p99_ms"]
        assert one["cost"]["peak_bytes"] > 0


def test_the_loss_of_a_stage_is_what_that_stage_alone_changes(model, slates):
    parent = TorchScorer.load(model[0])
    rows = [judge(parent, one) for one in slates]

    class Turned:
        """Stage 2 upside down, stage 1 as it was."""

        def full(self, *inputs):
            return -parent.full(*inputs)

        base = staticmethod(parent.base)

    lost = lost_by_stage(Turned(), parent, slates, rows)
    assert lost["stage 2"]["ndcg_at_10[all]"] < -0.01
    assert lost["stage 1"]["ndcg_at_10[all]"] == 0


def test_unchanged_variants_are_not_made_again_and_one_that_cannot_be_made_is_left_out(
    compressed, model, dataset, home, tmp_path, monkeypatch
):
    def unsupported(name, *others):
        raise RuntimeError(f"No conversion rule found for operations: aten::frobnicate\nin {name}")

    monkeypatch.setattr("tasks.compression.variants.make_variant", unsupported)
    other_rank = RECIPE.model_copy(update={"compression": RECIPE.compression.model_copy(update={"rank": 4})})
    # what does not change with the rank is known already
    told = compress(model[0], dataset, other_rank, home / "cache", tmp_path)
    front = json.loads((tmp_path / "front.json").read_text())
    assert list(front["dropped"]) == ["int8-low-rank"] and "aten::frobnicate" in told["variants"]["int8-low-rank"]
    assert front["chosen"] in ("fp32", "int8")


def test_without_any_variant_nothing_goes_forward_and_the_reasons_are_told(model, dataset, tmp_path, monkeypatch):
    def missing(*args):
        raise ImportError("No module named 'openvino'")

    monkeypatch.setattr("tasks.compress.cached_variant", missing)
    told = compress(model[0], dataset, RECIPE, tmp_path / "cache", tmp_path)
    assert told["chosen"] == "none" and {path.name for path in tmp_path.iterdir() if path.name != "cache"} == {
        "front.json"
    }
    front = json.loads((tmp_path / "front.json").read_bytes())
    assert front["chosen"] is None and "(fp32: could not be made or loaded here: No module named" in front["reason"]


def test_what_goes_forward_serves_without_torch_and_keeps_the_parent(compressed, model):
    out = compressed[0]
    assert (out / "model" / PARENT).read_bytes() == (model[0] / PARENT).read_bytes()
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["train_end"] == PARTITION and config["variant"]["name"] == compressed[1]["chosen"]
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from tasks.ranker.rank import recommend; from tasks.ranker.runtime import OpenVinoScorer\n"
        "from tasks.ranker.state import ItemState, View; from tasks.ranker.text import QueryEncoder\n"
        "out, data = map(Path, sys.argv[1:]); items, view = ItemState.load(data / 'items'), View(data / 'view')\n"
        "rows, ranking = recommend(OpenVinoScorer(out / 'model'), items, view.get(view.user_ids[0]))\n"
        "assert ranking.stage == 'full' and np.isfinite(ranking.scores).all()\n"
        "assert abs(np.linalg.norm(QueryEncoder(out / 'text').encode('fresh milk')) - 1) < 1e-3\n"
        "heavy = {'torch', 'transformers', 'nncf', 'polars', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    dataset = out.parent / f"dataset-{PARTITION}"
    command = [sys.executable, "-c", program, str(out), str(dataset)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_query_finds_what_it_names(compressed, dataset):
    from tasks.ranker.retrieve import similar_to
    from tasks.ranker.state import ItemState

    items = ItemState.load(dataset / "items")
    found = similar_to(items, QueryEncoder(compressed[0] / "text").encode("coffee"), 5)
    assert all(int(items.ids[row][-3:]) % 5 == 3 for row in found), "item numbers of coffee"


def test_one_line_of_the_recipe_makes_it_for_a_cuda_device(model, dataset, home, tmp_path):
    for_cuda = RECIPE.model_copy(update={"compression": RECIPE.compression.model_copy(update={"device": CUDA})})
    told = compress(model[0], dataset, for_cuda, home / "cache", tmp_path)
    front = json.loads((tmp_path / "front.json").read_bytes())
    assert told["chosen"] == "bf16" and [one["name"] for one in front["variants"]] == ["fp32", "bf16"]
    assert sorted(front["dropped"]) == ["int8", "int8-low-rank"] and "made for CPUs" in front["dropped"]["int8"]
    sizes = [one["cost"]["bytes"] for one in front["variants"]]
    assert sizes[1] < 0.6 * sizes[0] and sizes[1] == (tmp_path / "model" / WEIGHTS).stat().st_size
    config = json.loads((tmp_path / "model" / "config.json").read_bytes())
    assert (config["device"], config["precision"], config["variant"]["name"]) == ("cuda", "bf16", "bf16")
    assert all(one["batch_dependence"] == 0 or is_here(CUDA) for one in front["variants"])
