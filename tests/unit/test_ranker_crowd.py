"""Many profiles counted at once: the numbers of each are, bit for bit, those that it has alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.ranker.crowd import Crowd
from tasks.ranker.features import columns, crowd_columns
from tasks.ranker.profile import Profile
from tasks.ranker.state import NOBODY
from tasks.ranker.tokens import packed_tokens, tokenise
from tests.ranker_builders import DAY, a_builder, a_log, stocked

ITEMS, USERS = 12, 4
lines = st.lists(
    st.tuples(st.integers(-40, -1), st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)),
    min_size=1, max_size=60, unique=True,
)  # fmt: skip
asked = st.lists(
    st.tuples(st.integers(0, USERS), st.lists(st.integers(0, ITEMS - 1), max_size=8)), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(lines, asked, st.booleans())
def test_a_member_of_a_crowd_has_its_own_numbers(drawn, members, knowledge):
    log = a_log(sorted(set(stocked([(DAY + day, user, item) for day, user, item in drawn], ITEMS))), ITEMS, USERS)
    morning = a_builder(log, knowledge=knowledge).morning(DAY)
    profiles = [Profile(morning.items, morning.histories.get(user, NOBODY), DAY) for user, _ in members]
    wanted = [np.array(rows, np.int32) for _, rows in members]
    owner = np.repeat(np.arange(len(members)), [len(rows) for rows in wanted])
    crowd = Crowd(profiles)
    x = crowd_columns(crowd, np.concatenate(wanted), owner)
    tokens, lengths = packed_tokens(crowd, np.concatenate(wanted), owner)
    np.testing.assert_array_equal(
        x, np.concatenate([columns(p, rows) for p, rows in zip(profiles, wanted, strict=True)])
    )
    alone = [tokenise(p, rows) for p, rows in zip(profiles, wanted, strict=True)]
    np.testing.assert_array_equal(tokens, np.concatenate([padded[mask > 0] for padded, mask in alone]))
    np.testing.assert_array_equal(lengths, np.concatenate([mask.sum(1) for _, mask in alone]))
