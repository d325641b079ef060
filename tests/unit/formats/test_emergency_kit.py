# SPDX-License-Identifier: Apache-2.0
"""What every vault carries."""

import ast
import re
import sys

from snapvault.formats import emergency_kit

OLDEST_PYTHON = (3, 8)


def test_the_script_is_a_program_for_old_pythons() -> None:
    tree = ast.parse(emergency_kit.script(), feature_version=OLDEST_PYTHON)

    assert ast.get_docstring(tree)


def test_the_script_imports_the_standard_library_alone() -> None:
    tree = ast.parse(emergency_kit.script())

    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    assert imported <= sys.stdlib_module_names


def test_the_text_names_the_script_and_only_options_that_it_has() -> None:
    text, script = emergency_kit.text().decode(), emergency_kit.script().decode()

    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))

    others = {"--endpoint-url", "--exclude", "--files-from", "--import", "--card-status"}
    assert "python3 /srv/vault/restore.py /srv/vault" in text
    assert "--to" in named
    assert {option for option in named - others if f'"{option}"' not in script} == set()
