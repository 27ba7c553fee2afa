"""Great Expectations decides whether a table meets a suite, in memory: no project folder, no telemetry, no progress bars.

`judge_profile` gives it what Polars counted (profile.py), `judge_frame` the table itself on pandas; a test holds the two
against each other. Importing Great Expectations takes seconds, judging a profile milliseconds: keep one Judge a process.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from html import escape
from typing import Any

import polars as pl
import polars.selectors as cs

from expectations.profile import ROW, Profile
from expectations.suites import Expectation, Suite

RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "unexpected_index_column_names": [ROW],
    "return_unexpected_index_query": False,  # pandas would name positions; the `row` column says it better
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What one expectation found. `rows` holds the value of the `row` column of the rows that broke it."""

    expectation: Expectation
    success: bool
    count: int  # rows that broke it
    rows: tuple[int, ...]  # all of them from a frame, the first LIMIT from a profile
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

    def judge_profile(self, suite: Suite, profile: Profile) -> tuple[list[Judged], str]:
        """(findings in the suite's order, the Data Docs page as self-contained HTML). Same profile, same bytes."""
        return judged_by(suite, self.results_of_profile(suite, profile))

    def judge_frame(self, suite: Suite, frame: pl.DataFrame) -> tuple[list[Judged], str]:
        """The same from plain Great Expectations on a pandas copy of `frame`, which has a `row` column."""
        return judged_by(suite, self.results_of_frame(suite, frame))

    def results_of_profile(self, suite: Suite, profile: Profile) -> Any:
        """Great Expectations' own result."""
        from great_expectations.core import ExpectationSuiteValidationResult
        from great_expectations.validator.validator import Validator, calc_validation_statistics

        from expectations.profile_engine import ProfileEngine

        validator = Validator(execution_engine=ProfileEngine(profile), data_context=self._context)
        asked = validator.process_expectations_for_validation(self._built(suite).expectation_configurations)
        results = validator.graph_validate(asked, runtime_configuration={"result_format": dict(RESULT_FORMAT)})
        statistics = calc_validation_statistics(results)._asdict()
        success = statistics.pop("success")
        return ExpectationSuiteValidationResult(
            success=success,
            results=results,
            suite_name=suite.name,
            statistics=statistics,
            meta={"great_expectations_version": self._gx.__version__},
        )

    def results_of_frame(self, suite: Suite, frame: pl.DataFrame) -> Any:
        """Great Expectations' own result."""
        name = suite.name
        if name not in {asset.name for asset in self._source.assets}:
            self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        batch = self._source.get_asset(name).get_batch_definition("all")
        built = self._context.suites.add_or_update(self._built(suite))
        definition = self._gx.ValidationDefinition(name=name, data=batch, suite=built)
        return self._context.validation_definitions.add_or_update(definition).run(
            batch_parameters={"dataframe": as_pandas(frame.select(ROW, *suite.columns))},
            result_format=dict(RESULT_FORMAT),
        )

    def _built(self, suite: Suite) -> Any:
        import great_expectations.expectations as gxe

        built = self._gx.ExpectationSuite(name=suite.name)
        for expectation in suite.expectations:
            kind = getattr(gxe, expectation.kind)
            built.add_expectation(
                kind(**expectation.arguments, notes=expectation.reason, meta={"name": expectation.name})
            )
        return built


def as_pandas(frame: pl.DataFrame) -> Any:
    """With 64-bit numbers and plain strings: others Great Expectations compares one by one, and not if there is none."""
    frame = frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String), cs.integer().cast(pl.Int64))
    return frame.with_columns(cs.float().cast(pl.Float64)).to_pandas()


def judged_by(suite: Suite, result: Any) -> tuple[list[Judged], str]:
    """Findings and page of a result of Great Expectations."""
    by_name = {one.expectation_config.meta["name"]: one for one in result.results}
    judged = [_finding(expectation, by_name[expectation.name]) for expectation in suite.expectations]
    return judged, _page(result, judged)


def _finding(expectation: Expectation, one: Any) -> Judged:
    broken = one.result.get("unexpected_index_list") or []
    rows = tuple(int(where[ROW]) for where in broken)
    return Judged(expectation, bool(one.success), int(one.result.get("unexpected_count") or 0), rows, _error(one))


def _error(one: Any) -> str:
    """Why the expectation could not be evaluated, if so. A failed metric is told under the metric's id."""
    told = one.exception_info or {}
    infos = [told] if "exception_message" in told else list(told.values())
    return "; ".join(str(info["exception_message"]) for info in infos if info["exception_message"])


STYLE = """<style>body{font:15px/1.5 system-ui,sans-serif;margin:1rem;max-width:60rem}table{border-collapse:collapse;
width:100%}td,th{border:1px solid #ccc;padding:.3rem .5rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}
img,nav,.navbar,footer,.modal,#ge-cta-footer,button{display:none!important}</style>"""


def _page(result: Any, judged: list[Judged]) -> str:
    """The Data Docs page, with our reasons on top and without what it would load from a network."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    page: str = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
    page = re.sub(r"-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", page)  # random: ids are told apart without them
    page = page.replace(" / __none__", "").replace("__none__", "not told, the page follows from the data alone")
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL | re.IGNORECASE)
    page = re.sub(r"<link\b[^>]*>", "", page, flags=re.IGNORECASE)
    page = re.sub(r"<img\b[^>]*>", "", page, flags=re.IGNORECASE)
    page = re.sub(r"https?://[^\s\"'<>)]*", "#", page)
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    page = page.replace("</head>", f"{viewport}{STYLE}</head>", 1)
    return re.sub(r"<body[^>]*>", lambda found: found.group() + _reasons(judged), page, count=1)


def _reasons(judged: list[Judged]) -> str:
    rows = "".join(
        f"<tr><td>{one.expectation.name}</td><td>{'holds' if one.success else f'fails for {one.count} rows'}</td>"
        f"<td>{escape(one.expectation.reason)}</td></tr>"
        for one in judged
    )
    return f"<table><tr><th>expectation</th><th>result</th><th>why it is there</th></tr>{rows}</table>"
