from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metrics.checkers.latency import percentiles
from metrics.notation import rows_of
from metrics.report.page import _inside_script
from metrics.report.series import series_of
from tests.run_folders import Folder
from tests.unit.metrics.evidences import evidence_of

LATENCIES = st.lists(st.tuples(st.integers(0, 8_000), st.integers(1, 900)), min_size=1, max_size=60)


@given(LATENCIES)
def test_each_bin_tells_exactly_what_began_in_it(operations: list[tuple[int, int]]) -> None:
    """Random starts and latencies in ms, against bins filled one by one."""
    text = "\n".join(f"a @{start / 1000:.3f} +{took / 1000:.3f} ok" for start, took in operations)
    series = series_of(evidence_of(rows_of(text), faults=(0, 9)))

    assert series is not None
    first_ms = min(start for start, _ in operations)
    bins: dict[int, list[float]] = {}
    for start, took in operations:
        bins.setdefault((start - first_ms) // 250, []).append(took / 1000)
    for number in range(len(series.start_s)):
        inside = np.asarray(bins.get(number, []))
        assert round(series.ok_per_s[number] * series.width_s) == len(inside)
        expected = [np.nan] * 3 if not len(inside) else percentiles(inside, [0.5, 0.99, 1.0])
        found = [series.p50_s[number], series.p99_s[number], series.max_s[number]]
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected, dtype=float), rtol=1e-9)


def test_nothing_recorded_is_nothing_to_draw(tmp_path: Path) -> None:
    """No series, and a page that says so."""
    evidence = Folder(path=tmp_path, clients="", probes="").evidence()

    assert series_of(evidence) is None


def test_a_long_run_is_gathered_into_few_bins() -> None:
    """A day in no more points than a screen has."""
    series = series_of(evidence_of(rows_of("a @0 +1 ok\na @86400 +1 ok"), faults=(0, 86_401)))

    assert series is not None
    assert len(series.start_s) <= 2001


def test_no_text_ends_the_script_that_carries_it() -> None:
    """The library escapes what it embeds; should it ever stop, this still holds."""
    script = _inside_script("const x = '</script><!-- <script>'")

    assert script == "const x = '<\\/script><\\!-- <script>'"
