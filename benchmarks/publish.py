# SPDX-License-Identifier: Apache-2.0
"""Put the last run's tables and plots into README.md and docs/: `--publish`.

Only what stands between the two marks of a page is replaced.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import plots, report, tables
from benchmarks.measure import BenchmarkError

BEGIN = "<!-- comparison: written by make bench -->"
END = "<!-- comparison: end -->"
_PLOTS = {
    "bytes-per-night.svg": "What each night stores",
    "restore-cost.svg": "What the restore of each night costs",
}


def publish(document: Mapping[str, Any], output: Path, root: Path) -> None:
    """Write the pages of the project that lies in `root`; the plots are taken from `output`.

    Raises:
        BenchmarkError: nothing was compared, or a page lacks the marks.
    """
    results = document["results"]
    if not tables.steps(results):
        raise BenchmarkError("nothing was compared in the last run")
    head = list(report.head(document))
    shown = [name for name in plots.pictures(results) if name in _PLOTS]
    for name in shown:
        shutil.copyfile(output / name, root / "docs" / name)
    pictures = [f"![{_PLOTS[name]}]({name})" for name in shown]
    _replace(root / "README.md", "\n".join([*head, "", *tables.short(results)]))
    _replace(root / "docs" / "benchmarks.md", "\n\n".join([report.markdown(document), *pictures]))


def _replace(page: Path, text: str) -> None:
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchmarkError(f'there is no place for the table in "{page}": {BEGIN} … {END}')
    page.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}")
