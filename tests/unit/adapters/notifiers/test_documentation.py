# SPDX-License-Identifier: Apache-2.0
"""docs/notifications.md says what is delivered, and its templates work."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from snapvault.adapters.notifiers import templates
from snapvault.daemon.telling import PAUSES, QUEUE_LENGTH
from snapvault.model.notices import NoticeKind
from tests.support.notices import a_notice

DOCUMENT = (Path(__file__).parents[4] / "docs" / "notifications.md").read_text()
SECTION = DOCUMENT.partition("### The JSON document")[2].partition("\n## ")[0]
KEYS = re.findall(r"^\| `([a-z_.]+)` \|", SECTION, re.MULTILINE)
EXAMPLES = re.findall(r"```jinja\n(.*?)\n```", DOCUMENT, re.DOTALL)


def test_the_documented_keys_are_those_of_the_document_in_its_order() -> None:
    keys = []
    for key, value in templates.document(a_notice()).items():
        keys.append(key)
        if isinstance(value, Mapping):
            keys += [f"{key}.{inner}" for inner in value]

    assert keys == KEYS


@pytest.mark.parametrize("key", [key for key in KEYS if "." not in key])
def test_templates_know_every_key_of_the_document(key: str) -> None:
    rendered = templates.render_text(a_notice(), "{{ %s }}" % key)  # noqa: UP031 - of braces

    assert rendered.note is None


@pytest.mark.parametrize("kind", list(NoticeKind))
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_templates_of_the_documentation_work(example: str, kind: NoticeKind) -> None:
    bare = a_notice(kind, run=None, source=None, vault=None, hint=None)
    for notice in (a_notice(kind), bare):
        rendered = templates.render_text(notice, example)

        assert rendered.note is None
        if example.startswith('{"'):
            json.loads(rendered.text)


def test_the_documentation_gives_the_limits_of_the_queue() -> None:
    assert list(PAUSES) == [5, 30, 120, 600]
    assert QUEUE_LENGTH == 500
    assert len(EXAMPLES) == 4
