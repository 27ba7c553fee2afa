"""A made-up film shop for tests of search: a handful of films, queries that name them, and encoders of a few hundred weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from tasks.domain.recipe import Search, SearchFields
from tasks.ranker.search.documents import Documents, read_documents
from tasks.ranker.search.lists import Lists

FIELDS = SearchFields(
    matched=("title", "genres", "actors"),
    written=(("title", 1), ("year", 1), ("genres", 2), ("actors", 2)),
    numbers=("year", "price"),
)
TITLES = ("Heat", "The Heat", "Alien", "Aliens", "Up", "Jaws", "Brazil", "Tango")


def a_row(item: str, title: str | None = "Heat", price: float | None = 2.0, **attributes: object) -> dict[str, object]:
    return {"item_id": item, "title": title, "price": price, "attributes": json.dumps(attributes)}


def films(fields: SearchFields = FIELDS) -> Documents:
    rows = [
        a_row(f"film-{n}", title, year=1980 + n, genres=["crime" if n % 2 else "drama"], actors=[f"Anna Actor{n}"])
        for n, title in enumerate(TITLES)
    ]
    return read_documents(rows, fields)


def judged(queries: Sequence[str], answers: Sequence[int], films_a_list: int = 4) -> Lists:
    """Each query's answer and the films after it, the answer not first."""
    rows = [[(answer + 1 + n) % len(TITLES) for n in range(films_a_list)] for answer in answers]
    for n, answer in enumerate(answers):
        rows[n][n % films_a_list] = answer
    grade = [[float(row == answer) for row in of] for of, answer in zip(rows, answers, strict=True)]
    return Lists(
        [f"list-{n}" for n in range(len(queries))],
        list(queries),
        np.arange(len(queries) + 1, dtype=np.int64) * films_a_list,
        np.array(rows, np.int32).reshape(-1),
        np.array(grade, np.float32).reshape(-1),
    )


def titles_asked(rounds: int = 4) -> Lists:
    """Every title asked by its name, several times in other words."""
    ways = ("{}", "{} full movie", "watch {}", "{} cast")
    asked = [
        (ways[n % len(ways)].format(title.lower()), row) for n in range(rounds) for row, title in enumerate(TITLES)
    ]
    return judged([query for query, _ in asked], [row for _, row in asked])


def events(rows: Sequence[tuple[str | None, str, str, str, float | None]]) -> pl.DataFrame:
    """(request, query, item, event type, value), a second apart."""
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        [
            {
                "event_id": f"e{n}",
                "event_time": begin + timedelta(seconds=n),
                "user_id": "u",
                "session_id": "s",
                "surface": "search",
                "query": query,
                "item_id": item,
                "event_type": kind,
                "value": value,
                "request_id": request,
            }
            for n, (request, query, item, kind, value) in enumerate(rows)
        ],
        schema_overrides={"request_id": pl.String, "value": pl.Float64, "query": pl.String},
    )


def a_plan(**changes: object) -> Search:
    small = {"fields": FIELDS, "queries_a_step": 8, "learning_rate": 1e-3, "warmup_steps": 2, "head_epochs": 3}
    return Search(**{**small, **changes})


def tiny_bert(folder: Path, layers: int = 1) -> Path:
    """A randomly initialised BERT with a vocabulary of letters and our words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [chr(code) for code in range(97, 123)]
    told = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{letter}" for letter in letters),
        *"0123456789",
    ]
    return _saved(
        folder,
        told,
        BertTokenizerFast,
        BertModel(
            BertConfig(
                vocab_size=len(told), hidden_size=16, num_hidden_layers=layers, num_attention_heads=2,
                intermediate_size=32, max_position_embeddings=64,
            ),
            add_pooling_layer=False,
        ),
    )  # fmt: skip


def tiny_chinese_roberta(folder: Path) -> Path:
    """A randomly initialised RoBERTa whose vocabulary is Chinese characters, one token each."""
    from transformers import BertTokenizerFast, RobertaConfig, RobertaModel

    told = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"电影火车热爱人生警察外星飞行"]
    return _saved(
        folder,
        told,
        BertTokenizerFast,
        RobertaModel(
            RobertaConfig(
                vocab_size=len(told), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                max_position_embeddings=66, type_vocab_size=1, pad_token_id=0,
            ),
            add_pooling_layer=False,
        ),
    )  # fmt: skip


def _saved(folder: Path, told: Sequence[str], tokenizer: type, model: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(told) + "\n")
    tokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
