"""A recipe is read whole and refused at its first unknown or impossible field."""

from __future__ import annotations

import pytest
import yaml

from tasks.domain.errors import InputRejected
from tasks.domain.recipe import RECIPES, load_recipe


def changed(tmp_path, section, **fields):
    recipe = yaml.safe_load((RECIPES / "tiny.yaml").read_text())
    recipe[section].update(fields)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def test_every_shipped_recipe_is_valid_and_opens_with_its_launch_command():
    paths = sorted(RECIPES.glob("*.yaml"))
    assert {path.stem for path in paths} >= {"tiny", "demo"}
    for path in paths:
        assert load_recipe(path.stem).name == path.stem
        assert "make step STEP=finetune" in path.read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("section", "fields", "sentence"),
    [
        ("data", {"userz": 3}, "userz"),
        ("data", {"holdout_days": 15}, "holdout_days"),
        ("data", {"holdout_slates": 0}, "holdout_slates"),
        ("data", {"label_delay_days": -1}, "label_delay_days"),
        ("data", {"keep_other": 0}, "keep_other"),
        ("network", {"width": 30, "heads": 4}, "width 30 is not a multiple of heads 4"),
        ("training", {"learning_rate": float("nan")}, "learning_rate"),
        ("compression", {"variants": ["int8"]}, "variants must hold fp32"),
        ("compression", {"variants": ["fp32", "int3"]}, "int3"),
    ],
)
def test_what_cannot_work_is_refused_by_name(tmp_path, section, fields, sentence):
    with pytest.raises(InputRejected, match=sentence):
        load_recipe(changed(tmp_path, section, **fields))


@pytest.mark.parametrize("name", ["no-such", "../recipes/tiny", "", "tiny.yaml"])
def test_an_unknown_recipe_is_told_with_the_known_ones(name):
    with pytest.raises(InputRejected, match="known: demo, production, tiny"):
        load_recipe(name)


def test_a_recipe_is_known_by_its_content(tmp_path):
    same = load_recipe(changed(tmp_path, "data"))
    assert same.model_copy(update={"name": "tiny"}).digest == load_recipe("tiny").digest
    assert load_recipe(changed(tmp_path, "training", epochs=9)).digest != same.digest
