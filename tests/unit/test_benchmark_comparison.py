# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks do with programs and workloads, and the tables and plots of it."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import plots, tables
from benchmarks.comparison import Plan, compare
from benchmarks.figures import figures
from benchmarks.lab import Done, Stored, requests_in
from benchmarks.measure import BenchmarkError, Usage
from benchmarks.options import FULL, Options, parse
from benchmarks.publish import BEGIN, END, publish
from benchmarks.workloads import Kind

USAGE = Usage(
    user=1.5, system=0.5, wall=4, beside=0, others=0, peak_pss=50_000_000, peak_rss=0,
    temporary=7_000_000, output="",
)  # fmt: skip
PLAN = Plan(restores_all=False, repeat=1, idle=True)


class Growing:
    """A workload whose file gets longer each night."""

    name = "disk"
    kind: Kind = "image"
    nights = 2

    def __init__(self, folder: Path) -> None:
        self._path = folder / "file"

    def prepare(self, number: int) -> Path:
        self._path.write_bytes(bytes([number + 1]) * 100_000 * (number + 1))
        return self._path

    def facts(self) -> Mapping[str, Any]:
        return {"files": 1}

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


class Copying:
    """A program that keeps a whole copy each time; one that is `careless` restores the newest."""

    def __init__(self, folder: Path, name: str, *, careless: bool = False) -> None:
        self.name = name
        self._folder = folder / name
        self._careless = careless
        self._copies: list[Path] = []
        self._asked = 0

    def set_up(self) -> None:
        self._folder.mkdir()

    def back_up(self, path: Path) -> Done:
        self._copies.append(self._folder / str(len(self._copies)))
        shutil.copyfile(path, self._copies[-1])
        self._asked += 2
        return Done(USAGE)

    def restore(self, number: int, folder: Path) -> tuple[Done, Path]:
        shutil.copyfile(self._copies[-1 if self._careless else number], folder / "back")
        return Done(USAGE), folder / "back"

    def stored(self) -> Stored:
        return Stored(len(self._copies), sum(each.stat().st_size for each in self._copies))

    def requests(self) -> Counter[str]:
        return Counter(PUT=self._asked)

    def kept(self) -> int:
        return 11


def test_every_program_does_every_night_and_what_it_stores_and_asks_is_told(
    tmp_path: Path,
) -> None:
    programs = [lambda _: Copying(tmp_path, "one"), lambda _: Copying(tmp_path, "two")]

    document = compare(tmp_path, Growing(tmp_path), programs, PLAN, lambda _: None)

    assert list(document["programs"]) == ["one", "two"]
    did = document["programs"]["two"]
    assert [each["stored_bytes"] for each in did["backups"]] == [100_000, 200_000, 300_000]
    assert [each["requests"] for each in did["backups"]] == [{"PUT": 2}] * 3
    assert did["idle"]["stored_bytes"] == 300_000
    assert [each["night"] for each in did["restores"]] == [0, 2]
    assert document["facts"] == {"files": 1}


def test_a_restore_that_differs_from_what_was_backed_up_ends_everything(tmp_path: Path) -> None:
    programs = [lambda _: Copying(tmp_path, "careless", careless=True)]

    with pytest.raises(BenchmarkError, match="careless did not restore night 0 of disk as it was"):
        compare(tmp_path, Growing(tmp_path), programs, PLAN, lambda _: None)


def run(cpu: float, stored: int = 0, **more: Any) -> dict[str, Any]:
    return {**USAGE.document(), "cpu_seconds": cpu, "stored_bytes": stored, "stored_objects": 1,
            "kept_bytes": 0, "requests": {"PUT": 3}, **more}  # fmt: skip


def did(*backups: tuple[float, int], restores: tuple[float, float]) -> dict[str, Any]:
    return {
        "backups": [run(cpu, mb * 1_000_000) for cpu, mb in backups],
        "restores": [run(restores[0], night=0), run(restores[1], night=3)],
    }


def results() -> dict[str, Any]:
    ours = did((11, 765), (2, 50), (3, 54), (9, 90), restores=(5, 6))
    theirs = did((14, 745), (9.4, 283), (9, 280), (10, 290), restores=(13, 14))
    programs = {"SnapVault": ours, "borg": theirs}
    return {
        "disk": {"kind": "image", "nights": 3, "facts": {}, "data_bytes": [1], "programs": programs}
    }


def test_the_short_table_has_the_median_night_and_the_least_in_bold() -> None:
    lines = tables.short(results())

    assert lines[2] == "| disk: first backup | **11.0** / 765 | 14.0 / **745** |"
    assert lines[3] == "| disk: a night | **3.00** / **54.0** | 9.40 / 283 |"
    assert "| temporary disk for a restore, MB | **7** | **7** |" in lines


def test_it_is_told_where_another_program_takes_less() -> None:
    better = tables.better_elsewhere(results())

    assert better == ["- disk, first backup: 745 for borg; 765 MB stored for SnapVault"]


def test_the_long_table_has_a_row_for_each_program_of_each_step() -> None:
    lines = tables.long(results())

    assert len(lines) == 2 + 4 * 2
    assert lines[2].startswith(
        "| disk: first backup | SnapVault | 11.00 | 4.00 | 50 | 765.00 | 1 | 3 |"
    )


def test_a_night_is_drawn_for_each_program() -> None:
    pictures = plots.pictures(results())

    circles = [
        sum(1 for each in ET.fromstring(picture).iter() if each.tag.endswith("circle"))
        for picture in pictures.values()
    ]
    assert list(pictures) == ["bytes-per-night.svg", "restore-cost.svg"]
    assert circles == [6, 4]


def test_names_that_do_not_fit_into_a_line_of_a_picture_get_another() -> None:
    names = [f"program {number}" for number in range(6)]
    panel = plots.Panel("disk", "night", [1, 2], {name: [(1, 1.0), (2, 2.0)] for name in names})

    picture = ET.fromstring(plots.draw([panel], names))

    texts = [each for each in picture if each.tag.endswith("text")]
    assert [each.text for each in texts] == names
    assert all(float(each.attrib["x"]) + 70 < float(picture.attrib["width"]) for each in texts)
    assert len({each.attrib["y"] for each in texts}) == 2


def test_requests_about_the_bucket_alone_are_counted_by_method() -> None:
    metrics = (
        'SeaweedFS_s3_request_total{bucket="",code="403",type="LIST"} 2\n'
        'SeaweedFS_s3_request_total{bucket="bench",code="200",type="GET"} 2\n'
        'SeaweedFS_s3_request_total{bucket="bench",code="404",type="GET"} 1\n'
        'SeaweedFS_s3_request_total{bucket="bench",code="200",type="PUT"} 1.2e+03\n'
    )

    assert requests_in(metrics) == {"GET": 3, "PUT": 1200}


def options(*words: str) -> Options:
    return parse(
        words, "", compared=["disk", "dump"], alone=["hints"], programs=["snapvault", "restic"],
        output=Path("build"),
    )  # fmt: skip


def test_sizes_that_are_named_change_what_is_full() -> None:
    plain, small, other = options(), options("--small", "--disk-mib", "8"), options("--nights", "1")

    assert plain.is_full
    assert plain.sizes == FULL
    assert small.sizes.disk == 8 << 20
    assert [small.is_full, other.is_full] == [False, False]
    assert [plain.restores_all, small.restores_all] == [True, False]
    assert plain.workloads == ["disk", "dump"]


def test_peers_can_be_left_out_or_named() -> None:
    assert options("--without-peers").programs == ["snapvault"]
    assert options("--programs", "restic").programs == ["restic"]
    assert options().programs == ["snapvault", "restic"]


def test_a_workload_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--only", "tape")

    assert "no such workload: tape" in capsys.readouterr().err


@pytest.mark.parametrize(("is_full", "met"), [(True, True), (False, None)])
def test_seconds_are_judged_in_full_runs_alone(*, is_full: bool, met: bool | None) -> None:
    found = {
        each.name: each for each in figures({"plan": {"is_full": is_full}, "results": judged()})
    }

    assert found["disk, first backup: CPU s"].met is met
    assert found["disk: restore of night 3 / of the first one, CPU s"].met is True


def judged() -> dict[str, Any]:
    cached = {"cached_before_bytes": 0, "cached_after_bytes": 0}
    document = results()
    for did in document["disk"]["programs"].values():
        for each in (*did["backups"], *did["restores"]):
            each.update(cached)
    return document


def reported() -> dict[str, Any]:
    machine = {"cores": 2, "processor": "x", "memory_gib": 1, "kernel": "6", "python": "3"}
    return {
        "date": "2026-11-22",
        "tool": "SnapVault",
        "revision": "abc",
        "machine": machine,
        "programs": {},
        "plan": {"is_full": False, "seed": 1, "level": 3},
        "noise_share": 0.0,
        "results": judged(),
    }


def test_publishing_replaces_what_stands_between_the_marks_alone(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    pages = [tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md"]
    for page in pages:
        page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    for name in plots.pictures(judged()):
        (tmp_path / name).write_text("<svg/>")

    publish(reported(), tmp_path, tmp_path)

    for page in pages:
        text = page.read_text()
        assert text.startswith(f"above\n{BEGIN}\n\nMeasured 2026-11-22")
        assert "| disk: a night | **3.00** / **54.0** | 9.40 / 283 |" in text
        assert text.endswith(f"\n{END}\nbelow\n")
        assert "old" not in text.split()
    assert (tmp_path / "docs" / "restore-cost.svg").exists()


def test_a_page_without_the_marks_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("all of it")
    for name in plots.pictures(judged()):
        (tmp_path / name).write_text("<svg/>")

    with pytest.raises(BenchmarkError, match="there is no place for the table"):
        publish(reported(), tmp_path, tmp_path)

    assert (tmp_path / "README.md").read_text() == "all of it"
