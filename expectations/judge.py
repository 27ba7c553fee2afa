"""Run a suite with Great Expectations on pandas, in memory: no project folder, no telemetry, no progress bars.

Importing Great Expectations takes seconds, judging takes milliseconds: make one Judge for a process and reuse it.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from html import escape
from typing import Any

import polars as pl

from expectations.suites import Expectation, Suite

ROW = "row"  # index column of every judged frame: which row broke an expectation


@dataclass(frozen=True, slots=True)
class Judged:
    """What one expectation found. `rows` holds the value of the `row` column of each row that broke it."""

    expectation: Expectation
    success: bool
    rows: tuple[int, ...]
    error: str  # where the expectation could not be evaluated at all


class Judge:
    """One in-memory Great Expectations context."""

    def __init__(self) -> None:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        # beside Airflow's logging it prints hundreds of lines about its own registry
        logging.getLogger("great_expectations").setLevel(logging.WARNING)
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        # this one sets its own level when it is imported
        logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
        self._gx = gx
        self._context: Any = gx.get_context(mode="ephemeral")
        self._context.enable_analytics(False)
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
        self._source = self._context.data_sources.add_pandas("freshrank")

    def judge(self, suite: Suite, frame: pl.DataFrame) -> tuple[list[Judged], str]:
        """(findings in the suite's order, the Data Docs page as self-contained HTML). `frame` has a `row` column."""
        name = suite.name
        if name not in {asset.name for asset in self._source.assets}:
            self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
            self._context.suites.add(self._built(suite))
        definition = self._gx.ValidationDefinition(
            name=name,
            data=self._source.get_asset(name).get_batch_definition("all"),
            suite=self._context.suites.get(name),
        )
        definition = self._context.validation_definitions.add_or_update(definition)
        result = definition.run(
            batch_parameters={"dataframe": frame.select(ROW, *suite.columns).to_pandas()},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [ROW]},
        )
        by_name = {one.expectation_config.meta["name"]: one for one in result.results}
        judged = [_judged(expectation, by_name[expectation.name]) for expectation in suite.expectations]
        return judged, _page(result, judged)

    def _built(self, suite: Suite) -> Any:
        import great_expectations.expectations as gxe

        built = self._gx.ExpectationSuite(name=suite.name)
        for expectation in suite.expectations:
            kind = getattr(gxe, expectation.kind)
            built.add_expectation(
                kind(**expectation.arguments, notes=expectation.reason, meta={"name": expectation.name})
            )
        return built


def _judged(expectation: Expectation, one: Any) -> Judged:
    broken = one.result.get("unexpected_index_list") or []
    error = str(one.exception_info.get("exception_message") or "") if one.exception_info else ""
    return Judged(expectation, bool(one.success), tuple(int(where[ROW]) for where in broken), error)


STYLE = """<style>body{font:15px/1.5 system-ui,sans-serif;margin:1rem;max-width:60rem}table{border-collapse:collapse;
width:100%}td,th{border:1px solid #ccc;padding:.3rem .5rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}
img,nav,.navbar,footer,.modal,#ge-cta-footer,button{display:none!important}</style>"""


def _page(result: Any, judged: list[Judged]) -> str:
    """The Data Docs page, with our reasons on top and without what it would load from a network."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    page: str = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL | re.IGNORECASE)
    page = re.sub(r"<link\b[^>]*>", "", page, flags=re.IGNORECASE)
    page = re.sub(r"<img\b[^>]*>", "", page, flags=re.IGNORECASE)
    page = re.sub(r"https?://[^\s\"'<>)]*", "#", page)
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    page = page.replace("</head>", f"{viewport}{STYLE}</head>", 1)
    return re.sub(r"<body[^>]*>", lambda found: found.group() + _reasons(judged), page, count=1)


def _reasons(judged: list[Judged]) -> str:
    rows = "".join(
        f"<tr><td>{one.expectation.name}</td><td>{'holds' if one.success else f'fails for {len(one.rows)} rows'}</td>"
        f"<td>{escape(one.expectation.reason)}</td></tr>"
        for one in judged
    )
    return f"<table><tr><th>expectation</th><th>result</th><th>why it is there</th></tr>{rows}</table>"
