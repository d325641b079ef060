# SPDX-License-Identifier: Apache-2.0
"""What import-linter cannot see of the layers; the rest is in pyproject.toml."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPDX = "# SPDX-License-Identifier: Apache-2.0\n"
FOLDERS = ("snapvault", "tests", "benchmarks", "scripts")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_package_files_hold_only_their_license() -> None:
    packages = (path for path in MODULES if path.name == "__init__.py")

    full = [str(path.relative_to(ROOT)) for path in packages if path.read_text() != SPDX]

    assert full == []


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "snapvault").rglob("*.py")}

    bare = [str(path.relative_to(ROOT)) for path in folders if not (path / "__init__.py").exists()]

    assert bare == []


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_names_its_license_first(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)

    first = lines[1] if lines[0].startswith("#!") else lines[0]

    assert first == SPDX
