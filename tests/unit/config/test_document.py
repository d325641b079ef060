# SPDX-License-Identifier: Apache-2.0
"""YAML without surprises."""

import errno
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapvault.config.document import MAX_FILE_SIZE, Document, Place, read_document
from snapvault.config.problems import ProblemError
from snapvault.errors import ConfigError


def read(folder: Path, text: str | bytes) -> Document:
    path = folder / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-.inf", float("-inf")),
        ("yes", "yes"),
        ("off", "off"),
        ("012", "012"),
        ("0x1f", "0x1f"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-20", "2026-11-20"),
        ('"12"', "12"),
        ("'true'", "true"),
        ("a b ü", "a b ü"),
        ("[a, [b], {c: d}]", ["a", ["b"], {"c": "d"}]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    assert read(tmp_path, f"key: {text}\n").value == {"key": value}


def test_keys_are_always_text(tmp_path: Path) -> None:
    assert read(tmp_path, "2024: a\ntrue: b\n").value == {"2024": "a", "true": "b"}


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    document = read(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")

    assert document.value == {"a": 1, "b": 2}
    assert document.place(("b",)) == Place(2, 1)


def test_every_key_and_item_has_a_place(tmp_path: Path) -> None:
    document = read(tmp_path, "a:\n  b: [x,\n      y]\n")

    assert document.place(("a", "b")) == Place(2, 3)
    assert document.place(("a", "b", 1)) == Place(3, 7)
    assert document.place(("a", "nowhere", "else")) == Place(1, 1)


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "", "expected a mapping, found an empty file"),
        ("# only a comment\n", "", "expected a mapping, found an empty file"),
        ("a: 1\nb: 2\na: 3\n", ", line 3, column 1", 'key "a" is already on line 1'),
        ("a:\n\tb: 1\n", ", line 2, column 1", "not YAML: a tab where only spaces can be"),
        ("a: b: c\n", ", line 1, column 5", 'not YAML: a ":" where no key can be'),
        ("a: [1\n", ", line 1, column 4", 'not YAML: a "[" is opened here and never closed'),
        ("b: 1\na: {c: 1\n", ", line 2, column 4", 'a "{" is opened here and never closed'),
        ('a: "b\nc: 1\n', ", line 1, column 4", "a quotation mark is opened here and never closed"),
        ('a: {b: "c" "d"}\n', ", line 1, column 12", 'a "," or "}" is missing before this'),
        ("a: * * *\n", ", line 1, column 5", "text that starts with a character that means"),
        ("a: @daily\n", ", line 1, column 4", "text that starts with a character that means"),
        ("a:\n   b: 1\n  c: 1\n", ", line 3, column 3", "this line does not fit those above it"),
        ("a: &x 1\nb: *x\n", ", line 1, column 4", "anchors and aliases are not read"),
        ("b: *x\n", ", line 1, column 4", "anchors and aliases are not read"),
        ("<<: {a: 1}\n", ", line 1, column 1", "merge keys are not read"),
        ("a: !!python/none x\n", ", line 1, column 4", "tags are not read"),
        ("a: ! x\n", ", line 1, column 4", "tags are not read"),
        ("[a]: 1\n", ", line 1, column 1", "expected text as the key"),
        ("a: 1\n---\nb: 2\n", ", line 2, column 1", "expected one YAML document, found a second"),
        ("a: 1\nb: \x01\n", ", line 2, column 4", r"not YAML: the character \x01 is not allowed"),
        ('a: "\\0"\n', ", line 1, column 4", "found a character that no text can hold"),
        ('a: "\\ud800"\n', ", line 1, column 4", "found a character that no text can hold"),
        ('a: "\\UFFFFFFFF"\n', "", "not YAML: an escape or a number is out of range"),
        ("a: " + "[" * 40 + "]" * 40, ", line 1, column 20", "expected at most 16 levels"),
        (b"a: 1\nb: \xff\n", ", line 2", "expected UTF-8 text, found the byte 0xff"),
        (b"#" * (MAX_FILE_SIZE + 1), "", "expected at most 1 MiB, found more"),
    ],
)
def test_what_is_not_read_is_refused_with_its_place(
    tmp_path: Path, text: str | bytes, where: str, message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        read(tmp_path, text)

    assert str(refusal.value).startswith(f'file "{tmp_path}/file.yaml"{where}: ')
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_a_folder_and_a_loop_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    for name, message in [
        ("gone", "there is no such file"),
        (".", "expected a file, found a folder"),
        ("loop", "could not read it: too many levels of symbolic links"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_document(tmp_path / name)


def test_a_file_of_somebody_else_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # Whoever runs this may be root, who may read everything.
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match="could not read it: permission denied") as refusal:
        read_document(tmp_path / "nightly.yaml")

    assert refusal.value.hint == "Let this user read it, or run as the user who owns it."


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc <"), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.dictionaries(st.text("xyz"), VALUES, min_size=1, max_size=3))
def test_what_other_programs_write_is_read_alike(tmp_path: Path, value: object) -> None:
    if "\0" in repr(value) or "\\x00" in repr(value):
        return
    text = yaml.safe_dump(value, default_style='"', allow_unicode=False)
    plain = yaml.safe_dump(value, allow_unicode=False)

    assert read(tmp_path, plain).value == value or "<<" in plain
    assert "!!" in text or read(tmp_path, text).value == value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(text=st.text() | st.text("ab:-[]{}\"'!&*|>%#?@` \n\t0~<\\,.", max_size=40) | st.binary())
def test_any_bytes_are_a_document_or_refused(tmp_path: Path, text: str | bytes) -> None:
    raw = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")

    try:
        read(tmp_path, raw)
    except ProblemError as error:
        refusal = str(error)
    else:
        refusal = ""

    assert refusal.isprintable()
