"""Facts that hold of sound state, whatever the metric says."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.ranker.state import ItemState

LEAST_COVERAGE, LEAST_USERS, MOST_GROWTH, LEAST_TEXT = 0.80, 0.90, 1.50, 0.90


def state_checks(released: ItemState, fresh: ItemState, users_before: int, users_now: int) -> list[dict[str, Any]]:
    """The released state against the fresh one. Each check: name, value, limit, ok, sentence."""
    kept = len(set(released.ids[: released.size]) & set(fresh.ids[: fresh.size])) / max(1, released.size)
    growth = fresh.size / max(1, released.size)
    texts = float((fresh.text[: fresh.size] >= 0).mean()) if fresh.size else 0.0
    users = users_now / max(1, users_before)
    arrays = (fresh.static, fresh.price, fresh.price_level, fresh.sales7, fresh.sales28, fresh.text_vectors)
    finite = all(bool(np.isfinite(values).all()) for values in arrays)
    rows = (
        (
            "state_coverage",
            kept,
            LEAST_COVERAGE,
            kept >= LEAST_COVERAGE,
            f"{kept:.1%} of the champion's catalogue is still there",
        ),
        (
            "state_size",
            growth,
            MOST_GROWTH,
            1 / MOST_GROWTH <= growth <= MOST_GROWTH,
            f"the catalogue is {growth:.2f} times the champion's",
        ),
        (
            "state_users",
            users,
            LEAST_USERS,
            users >= LEAST_USERS,
            f"{users_now} users have a history, the champion's view has {users_before}",
        ),
        ("state_text", texts, LEAST_TEXT, texts >= LEAST_TEXT, f"{texts:.1%} of the catalogue has a text vector"),
        (
            "state_finite",
            float(finite),
            1.0,
            finite,
            "every counter, price and vector is finite" if finite else "a counter, price or vector is NaN or infinite",
        ),
    )
    return [
        {"name": name, "value": float(value), "limit": limit, "ok": bool(ok), "sentence": f"{told}, limit {limit:g}"}
        for name, value, limit, ok, told in rows
    ]
