"""Which slates are in which slice."""

from __future__ import annotations

import re

from tasks.domain.slices import LEAST_SLATES, SLICES, SlateFacts, members, plain, reason_of


def a_slate(**told):
    return SlateFacts(
        **{"trips": 50, "surface": "recommendation", "newest_item_days": 90.0, "sales_place": 0.1, "department": ""}
        | told
    )


def test_the_edges_of_the_declared_slices():
    slates = [
        a_slate(trips=4, newest_item_days=28.0, sales_place=0.0),
        a_slate(trips=5, newest_item_days=29.0, sales_place=0.5),
        a_slate(trips=40, surface="search", sales_place=0.9),
    ]
    told = members(slates)
    assert told == {
        "new_users": [True, False, False],
        "light_users": [True, True, False],
        "heavy_users": [False, False, True],
        "new_items": [True, False, False],
        "head_items": [True, False, False],
        "torso_items": [False, True, False],
        "tail_items": [False, False, True],
        "surface_recommendation": [True, True, False],
        "surface_search": [False, False, True],
    }


def test_every_slate_is_in_exactly_one_band_of_sales():
    told = members([a_slate(sales_place=place / 30) for place in range(30)])
    assert all(sum(told[f"{band}_items"][n] for band in ("head", "torso", "tail")) == 1 for n in range(30))


def test_departments_and_groups_are_slices_only_where_they_have_enough_slates():
    many = [a_slate(department="MEAT > PCKGD", groups={"age": "65+"})] * LEAST_SLATES
    few = [a_slate(department="TOYS", groups={"age": "19-24"})] * (LEAST_SLATES - 1)
    told = members(many + few)
    assert sum(told["department_meat_pckgd"]) == sum(told["group_age_65"]) == LEAST_SLATES
    assert not {"department_toys", "group_age_19_24"} & set(told)


def test_every_slice_has_a_reason_and_a_name_that_fits_a_column():
    told = members([a_slate(department="MEAT", groups={"income": "50-74K"})] * LEAST_SLATES)
    assert len(told) == len(SLICES) + 2
    assert all(len(reason_of(name)) > 10 and re.fullmatch(r"[a-z0-9_]+", name) for name in told)
    assert plain("50-74K") == "50_74k" and plain("+") == "blank"
