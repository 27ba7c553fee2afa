"""An execution engine of Great Expectations that answers from a profile; no row of the judged table comes here.

Great Expectations asks for metrics (how many rows, how many unexpected, which). Its own Expectation classes decide what
follows from them, and its own renderer writes the page. This module imports Great Expectations, so import it late.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import great_expectations.expectations as gxe
import polars as pl
from great_expectations.constants import MAX_RESULT_RECORDS
from great_expectations.exceptions import MetricResolutionError
from great_expectations.execution_engine import PandasExecutionEngine

from expectations.profile import ROW, Found, Profile
from expectations.suites import Expectation

ABSENT = "column_values.nonnull.unexpected_count"  # asked for beside every expectation about a column


class ProfileEngine(PandasExecutionEngine):
    """Pandas in name, so that Great Expectations knows which metrics there are; computes none of them."""

    def __init__(self, profile: Profile) -> None:
        super().__init__()
        self._profile = profile
        self._asked = {_key(_metric(one), one.columns, one.arguments): one for one in profile.suite.expectations}

    def resolve_metrics(
        self,
        metrics_to_resolve: Iterable[Any],
        metrics: dict[Any, Any] | None = None,
        runtime_configuration: dict[str, Any] | None = None,
    ) -> dict[Any, Any]:
        answers = {}
        for metric in metrics_to_resolve:
            try:
                answers[metric.id] = self._answer(metric)
            except KeyError as err:  # only this error costs one expectation; any other would cost the whole suite
                raise MetricResolutionError(
                    f"the profile cannot answer {metric.metric_name}: {err}", (metric,)
                ) from err
        return answers

    def _answer(self, metric: Any) -> Any:
        of, _, wanted = metric.metric_name.rpartition(".")
        if metric.metric_name == "table.row_count":
            return self._profile.rows
        if metric.metric_name == ABSENT:
            return self._profile.absent[metric.metric_domain_kwargs["column"]]
        if of == "table" or wanted in ("condition", "map", "unexpected_index_query"):
            return None  # what pandas would compute the metrics below from; the query is switched off by the judge
        domain = metric.metric_domain_kwargs
        columns = tuple(domain.get("column_list") or (domain["column"],))
        expectation = self._asked[_key(of, columns, metric.metric_value_kwargs)]
        found = self._profile.found[expectation.name]
        answers = {
            "unexpected_count": lambda: found.count,
            "filtered_row_count": lambda: self._profile.rows - found.ignored,
            "unexpected_values": lambda: self._values(expectation, found),
            "unexpected_index_list": lambda: self._index(expectation, found),
        }
        return answers[wanted]()

    def _values(self, expectation: Expectation, found: Found) -> list[Any]:
        sample = self._as_pandas(found.sample.head(MAX_RESULT_RECORDS).select(expectation.columns))
        return list(sample[expectation.columns[0]]) if len(expectation.columns) == 1 else sample.to_dict("records")

    def _index(self, expectation: Expectation, found: Found) -> list[dict[str, Any]]:
        first, *others = expectation.columns
        return self._as_pandas(found.sample.select(first, ROW, *others)).to_dict("records")

    def _as_pandas(self, sample: pl.DataFrame) -> Any:
        """As the same rows of the whole table would be there: whole numbers turn into floats beside an absent one."""
        holed = [name for name in sample.columns if self._profile.absent.get(name) and sample.schema[name].is_integer()]
        return sample.with_columns(pl.col(holed).cast(pl.Float64)).to_pandas()


def _metric(expectation: Expectation) -> str:
    return str(getattr(gxe, expectation.kind).map_metric)


def _key(of: str, columns: tuple[str, ...], arguments: dict[str, Any]) -> tuple[str, ...]:
    """Which expectation a metric belongs to: same condition, same columns, same bounds."""
    aside = ("column", "column_list", "mostly", "result_format")
    bounds = {
        name: value
        for name, value in arguments.items()
        if name not in aside and value is not None and value is not False
    }
    numbers = {name: float(value) if isinstance(value, int) else value for name, value in bounds.items()}
    return (of, *columns, repr(sorted(numbers.items())))
