# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from typing import Any

import pytest

from snapvault.adapters.notifiers import templates
from snapvault.model.notices import NoticeKind
from tests.support.notices import AT, RUN, a_notice


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    import time

    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def text(template: str, **fields: Any) -> str:
    rendered = templates.render_text(a_notice(**fields), template)
    assert rendered.note is None, rendered.note
    return rendered.text.rstrip("\n")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ kind }} {{ host }} {{ vault }}/{{ source }}", "failure host1 offsite/web01"),
        ("{{ title }}", 'backup of "web01" failed'),
        ("{{ at | local }}", "2026-11-21 02:30:10 CET"),
        ("[{{ retry_at | local }}{{ alarm or '' }}]", "[]"),
        (
            "{{ run.state }} {{ run.trigger }} {{ run.attempt }} {{ policy }}",
            "failed retry 2 nightly",
        ),
        ("{{ run.seconds | duration }}", "10s"),
        ("{{ run.size | size }}", ""),
        ("{{ 5 * 1024 * 1024 | int }} {{ 5242880 | size }}", "5242880 5.0 MiB"),
        ("{{ run.failure.message }} {{ run.failure.exit_status }}", "the store did not answer 14"),
        ("{% if kind == 'failure' %}bad{% endif %}", "bad"),
        ("{{ run.due | json }}", '"2026-11-21T01:29:30.000000Z"'),
        ("{{ document.run.state }}", "failed"),
        ("{{ text | length > 100 }}", "True"),
    ],
)
def test_templates_can_use_what_is_documented(template: str, expected: str) -> None:
    assert text(template) == expected


def test_a_template_sees_whether_there_was_a_run() -> None:
    assert text("{% if run %}yes{% else %}no{% endif %}", run=None) == "no"


@pytest.mark.parametrize(
    "template",
    [
        "{{ unknown }}",
        "{{ run.unknown }}",
        "{% for %}",
        "{{ 1 / 0 }}",
        "{{ run.seconds | nofilter }}",
        "{{ title | json | size }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ run.__init__.__globals__ }}",
        "{{ self.__init__.__globals__['os'].environ }}",
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{{ run.counters.update({'a': 1}) }}",
        "{% for i in range(99999) %}{{ text }}{% endfor %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ {1: 2} | json | json | json.nothing }}",
        "{{ run.key.source.nothing.more }}",
    ],
)
def test_a_template_that_fails_gives_the_usual_text_and_says_so(template: str) -> None:
    usual = templates.render_text(a_notice(), None).text

    rendered = templates.render_text(a_notice(), template)

    assert rendered.note is not None
    assert rendered.note.startswith("the template could not be used: ")
    assert "\n" not in rendered.note
    assert rendered.text == f"({rendered.note})\n\n{usual}"


def test_the_usual_text_names_everything_there_is() -> None:
    run = replace(RUN, point="20261121T013000Z-3f2a", size=5 * 1024**3)

    rendered = templates.render_text(a_notice(run=run, retry_at=AT), None).text

    assert rendered == (
        'could not back up source "web01": the store did not answer\n'
        "\n"
        "Look at the network.\n"
        "\n"
        "Host      host1\n"
        "Vault     offsite\n"
        "Source    web01\n"
        "Policy    nightly\n"
        "Time      2026-11-21 02:30:10 CET\n"
        "Next try  2026-11-21 02:30:10 CET\n"
        "Run       20261121T013000Z-web01-1, failed (retry, attempt 2)\n"
        "Due       2026-11-21 02:29:30 CET\n"
        "Started   2026-11-21 02:30:00 CET\n"
        "Took      10s\n"
        "Point     20261121T013000Z-3f2a\n"
        "Size      5.0 GiB\n"
    )


def test_the_usual_text_leaves_out_what_there_is_not() -> None:
    notice = a_notice(
        NoticeKind.BREACH,
        message='policy "nightly" has no sources',
        hint=None,
        vault=None,
        source=None,
        run=None,
        alarm="policy-without-sources",
    )

    assert templates.render_text(notice, None).text == (
        'policy "nightly" has no sources\n'
        "\n"
        "Host    host1\n"
        "Policy  nightly\n"
        "Alarm   policy-without-sources\n"
        "Time    2026-11-21 02:30:10 CET\n"
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a\r\nBcc: b", "a Bcc: b"),
        ("a\0\x1b[31mb", "a [31mb"),
        ("a\u2028b\u2029c\u202ed", "a b c d"),
        ("  \n ", ""),
        ("bad \udcff name", "bad ? name"),
        ("Zoë 日本", "Zoë 日本"),
    ],
)
def test_one_line_stays_one_line(written: str, expected: str) -> None:
    assert templates.one_line(written) == expected


def test_a_subject_is_one_line_of_bounded_length() -> None:
    rendered = templates.render_subject(a_notice(title="a\n" * 400), None)

    assert len(rendered.text) == 200
    assert rendered.text.startswith("[host1] a a a")
    assert rendered.text.endswith("…")


def test_a_document_that_is_not_json_is_replaced_by_ours() -> None:
    rendered = templates.render_json(a_notice(), '{"a": {{ title }}}', must_be_json=True)

    assert json.loads(rendered.text)["note"] == rendered.note
    assert "what it writes is not JSON (line 1, column 7)" in str(rendered.note)


def test_names_that_are_no_text_become_json_that_is() -> None:
    rendered = templates.render_json(a_notice(message="bad \udcff"), None, must_be_json=True)

    assert json.loads(rendered.text.encode())["message"] == "bad ?"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ title }}", None),
        ("{{ title", "line 1: unexpected end of template"),
        ("a\n{% if %}", "line 2: Expected an expression"),
        ("{{ " + "(" * 5000, "maximum recursion depth exceeded"),
        ("{{ title | nofilter }}", "line 1: No filter named 'nofilter'"),
    ],
)
def test_a_templates_syntax_is_checked_without_a_notice(template: str, said: str | None) -> None:
    found = templates.check_template(template)

    assert (found is None) if said is None else (found is not None and found.startswith(said))
