"""A tiny real release: a state counted from a made-up log, and OpenVINO graphs with the inputs of the real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tasks.domain.behaviour import pseudonym
from tasks.ranker.arrays import epoch_day
from tasks.ranker.build import Morning, StateBuilder, TextTable
from tasks.ranker.features import FEATURES
from tasks.ranker.log import EventLog, Items, Plans
from tasks.ranker.runtime import PARENT
from tasks.ranker.state import save_view
from tasks.ranker.tokens import MAX_TOKENS, TOKEN, TOKEN_WIDTH
from tasks.serving.golden import record
from tasks.serving.release import seal, seal_view

DAY = epoch_day("2017-07-01")
ITEMS, USERS, DAYS = 60, 12, 100
WORDS = ("milk", "bread", "apple", "coffee", "tea", "soap")
PSEUDONYM_KEY = "ab" * 32
WIDTH = 384


def a_log(seed: int = 0) -> EventLog:
    """Every item sells at least 5 times in the last 90 days; users come back for what they bought."""
    rng = np.random.default_rng(seed)
    lines = {(d, int(rng.integers(USERS)), int(rng.integers(ITEMS))) for d in range(DAY - DAYS, DAY) for _ in range(12)}
    lines |= {(DAY - 1 - n, n % USERS, item) for item in range(ITEMS) for n in range(5)}
    day, user, item = (np.array(column, np.int32) for column in zip(*sorted(lines), strict=True))
    n = len(day)
    return EventLog(
        items=Items(
            ids=[f"item-{number:03d}" for number in range(ITEMS)],
            type=np.arange(ITEMS, dtype=np.int32) % 15,
            category=np.arange(ITEMS, dtype=np.int32) % 5,
            brand=np.arange(ITEMS, dtype=np.int32) % 7,
            texts=[f"{WORDS[number % 6]} {WORDS[number // 10]}" for number in range(ITEMS)],
        ),
        user_ids=[f"{number:064x}" for number in range(USERS)],
        day=day,
        user=user,
        item=item,
        quantity=np.ones(n, np.float32),
        value=(1 + item % 9).astype(np.float32),
        discount=(item % 4 == 0).astype(np.float32),
        store=(user % 3).astype(np.int32),
        store_ids=["s0", "s1", "s2"],
    )


def word_vectors() -> np.ndarray:
    vectors = np.random.default_rng(7).normal(size=(len(WORDS) + 1, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def a_morning(seed: int = 0) -> Morning:
    log = a_log(seed)
    words = {word: number for number, word in enumerate(WORDS)}
    means = np.stack([word_vectors()[[words[word] for word in text.split()]].mean(0) for text in log.items.texts])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    texts = TextTable(np.arange(ITEMS, dtype=np.int32), means.astype(np.float16))
    return StateBuilder(log, Plans({}), np.arange(USERS, dtype=np.int32), texts).morning(DAY)


def write_model(directory: Path, seed: int = 0) -> None:
    """base = w.x + v.text, full = base + sum of u.token: real graphs, made without torch."""
    import openvino as ov
    from openvino import opset13 as op

    directory.mkdir(parents=True)
    f = len(FEATURES)
    for name in ("base", "full"):
        x = op.parameter([-1, f], np.float32, name="x")
        text = op.parameter([-1, WIDTH], np.float32, name="item_vec")
        generator = np.random.default_rng(seed)
        w, v, u = ((generator.normal(size=(n, 1)) / np.sqrt(n)).astype(np.float32) for n in (f, WIDTH, len(TOKEN)))
        score = op.add(op.matmul(x, op.constant(w), False, False), op.matmul(text, op.constant(v), False, False))
        inputs = [x, text]
        if name == "full":
            tokens = op.parameter([-1, MAX_TOKENS, len(TOKEN)], np.float32, name="tokens")
            mask = op.parameter([-1, MAX_TOKENS], np.float32, name="mask")
            each = op.squeeze(op.matmul(tokens, op.constant(u), False, False), op.constant(np.array([2])))
            seen = op.reduce_sum(op.multiply(each, mask), op.constant(np.array([1])), True)
            score, inputs = op.add(score, seen), [*inputs, tokens, mask]
        model = ov.Model([op.squeeze(score, op.constant(np.array([1])))], inputs, name)
        _save(model, directory / f"{name}.xml")
    config = {"features": list(FEATURES), "token": list(TOKEN), "max_tokens": MAX_TOKENS, "parent": {}}
    (directory / "config.json").write_text(json.dumps(config, sort_keys=True))


def _save(model: Any, path: Path) -> None:
    import openvino as ov

    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"node-{number}")  # else names count what this process made before
    model.outputs[0].get_tensor().set_names({"score"})
    ov.save_model(model, path, compress_to_fp16=False)


def write_text(directory: Path) -> None:
    """A word-level tokenizer and the mean of word vectors, unit length."""
    import openvino as ov
    from openvino import opset13 as op
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    directory.mkdir(parents=True)
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate((*WORDS, "[UNK]"))}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    ids = op.parameter([-1, -1], np.int64, name="ids")
    mask = op.parameter([-1, -1], np.int64, name="mask")
    vectors = op.gather(op.constant(word_vectors()), ids, op.constant(np.array(0)))
    weight = op.unsqueeze(op.convert(mask, "f32"), op.constant(np.array(2)))
    mean = op.reduce_sum(op.multiply(vectors, weight), op.constant(np.array([1])))
    unit = op.normalize_l2(mean, op.constant(np.array([1])), 1e-12, "max")
    _save(ov.Model([unit], [ids, mask], "encoder"), directory / "encoder.xml")


def golden_requests() -> list[dict[str, object]]:
    history = [{"item_id": f"item-{n:03d}", "event_time": f"2017-06-{20 + n}T10:00:00Z"} for n in range(8)]
    return [
        {"surface": "recommendation", "history": history, "k": 20},
        {"surface": "recommendation", "candidates": ["item-003", "item-011", "no-such-item", "item-001"]},
        {"surface": "search", "query": "milk tea", "k": 5},
    ]


def a_release(root: Path, seed: int = 0, key_id: str | None = None) -> tuple[Path, Path]:
    """(src, view) of a sealed release with its golden answers; `src` holds no code, so the code under test serves."""
    from tasks.ranker.runtime import OpenVinoScorer
    from tasks.ranker.text import QueryEncoder
    from tasks.serving.engine import Engine

    src, view = root / "src", root / "view"
    morning = a_morning(seed)
    morning.items.save(src / "release" / "items")
    key = bytes.fromhex(PSEUDONYM_KEY)
    users = {pseudonym(f"user-{number}", key): history for number, history in morning.histories.items()}
    save_view(view, morning.items, users)
    write_model(src / "release" / "model", seed)
    write_text(src / "release" / "text")
    engine = Engine(morning.items, OpenVinoScorer(src / "release" / "model"), QueryEncoder(src / "release" / "text"))
    (src / "release" / "golden.json").write_bytes(record(engine, golden_requests()))
    facts = {"kind": "bootstrap", "partition": "2017-07-01", "created": "2017-07-01", "view": seal_view(view, USERS)}
    seal(src, {**facts, "key_id": key_id})
    return src, view


def a_candidate(root: Path) -> tuple[Path, Path]:
    """(candidate, dataset) as compress and build_dataset leave them."""
    src, view = a_release(root)
    candidate, dataset = root / "candidate", root / "dataset"
    for name in ("model", "text"):
        shutil.copytree(src / "release" / name, candidate / name)
    shutil.copytree(src / "release" / "items", dataset / "items")
    shutil.copytree(view, dataset / "view", ignore=shutil.ignore_patterns("view.json"))
    (dataset / "dataset.json").write_text(json.dumps({"train_end": "2017-06-16"}))
    (dataset / "partitions.json").write_text(json.dumps({"2017-06-30": "a" * 64}))
    return candidate, dataset


def a_network(model: Path) -> None:
    """A model directory as finetune leaves it: an untrained network of recipe tiny."""
    from safetensors.torch import save_file
    from torch import manual_seed

    from tasks.domain.recipe import load_recipe
    from tasks.ranker.model import Ranker

    network = load_recipe("tiny").network
    manual_seed(0)
    model.mkdir(parents=True, exist_ok=True)
    save_file(Ranker(network).state_dict(), model / PARENT)
    config = {"features": list(FEATURES), "token": list(TOKEN), "max_tokens": MAX_TOKENS}
    (model / "config.json").write_text(json.dumps(config | {"network": network.model_dump(mode="json")}))


def rows_to_score(count: int) -> tuple[np.ndarray, ...]:
    """(features, text vectors, tokens, mask) of made-up candidates, with histories of any length."""
    draws = np.random.default_rng(0)
    shapes = ((count, len(FEATURES)), (count, WIDTH), (count, MAX_TOKENS, TOKEN_WIDTH))
    x, item_vec, tokens = (draws.normal(size=shape).astype(np.float32) for shape in shapes)
    mask = (np.arange(MAX_TOKENS) < draws.integers(0, MAX_TOKENS + 1, count)[:, None]).astype(np.float32)
    return x, item_vec, tokens * mask[:, :, None], mask


def write_secrets(path: Path) -> Path:
    path.write_text(json.dumps({"pseudonym_key": PSEUDONYM_KEY, "pseudonym_key_id": "k1"}))
    return path
