# SPDX-License-Identifier: Apache-2.0
"""The documents name what exists, and the tree names no machine of its makers."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvault.config.policies import load_policies
from snapvault.config.settings import load_settings

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
NOT_OURS = {"__pycache__", "build", "dist", "htmlcov"}

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
MENTIONED = re.compile(r"\bdocs/[\w./-]*\w")
MAKE = re.compile(r"\bmake ([a-z]+)\b")
FENCED = re.compile(r"```sh\n(.*?)```", re.DOTALL)
SHOWN_FILE = re.compile(r"```yaml\n# /etc/snapvault/(\S+)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")

# Split, so that this file does not find itself.
FOREIGN = re.compile(
    "|".join(
        (
            r"(?<![\w.$}>-])/" + r"(?:work|root)/\w",
            r"py" + r"pi\.org",
            r"python" + r"hosted\.org",
            r"deb\.deb" + r"ian\.org",
            r"registry\.npm" + r"js\.org",
        )
    )
)


def files(*suffixes: str) -> Iterator[Path]:
    """Yield the tree's own files, sorted; all, or those whose names end so."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(
            name
            for name in folders
            if name not in NOT_OURS
            and not name.endswith(".egg-info")
            and (name == ".ci" or not name.startswith("."))
        )
        for name in sorted(set(names) - {".git"}):  # a file where the tree is a second checkout
            if not suffixes or name.endswith(suffixes):
                yield Path(folder, name)


def commands(text: str) -> str:
    """Return what a document shows to type, without the comments."""
    code = "\n".join(FENCED.findall(text) + INLINE.findall(text))
    return re.sub(r" *#.*", "", code)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_make_targets_that_exist(document: str) -> None:
    named = set(MAKE.findall(commands((ROOT / document).read_text())))

    assert named >= {"setup", "test", "check"}
    assert named <= targets()


def test_every_make_target_is_declared_phony() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert phony is not None
    assert set(phony[1].split()) == targets()


def test_ci_runs_the_readmes_commands_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    typed = commands(README.read_text())

    run = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]

    assert run == ["make check", "make test"]
    assert all(line in typed for line in run)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("path", list(files(".md")), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    links = [link for link in LINK.findall(path.read_text()) if "://" not in link]

    broken = [link for link in links if not (path.parent / link).exists()]

    assert broken == []


def test_documents_that_documents_and_code_mention_exist() -> None:
    missing = {
        f"{path.relative_to(ROOT)}: {mentioned}"
        for path in files(".md", ".py", ".toml", ".yaml")
        for mentioned in MENTIONED.findall(path.read_text())
        if not (ROOT / mentioned).exists()
    }

    assert missing == set()


def test_readme_leads_to_every_document() -> None:
    readme = README.read_text()

    unnamed = [path.name for path in (ROOT / "docs").glob("*.md") if path.name not in readme]

    assert unnamed == []


def test_the_readmes_settings_and_policy_are_right_as_they_stand(tmp_path: Path) -> None:
    for name, text in SHOWN_FILE.findall(README.read_text()):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    settings = load_settings(tmp_path / "snapvault.yaml")
    policies = load_policies(settings)

    assert list(settings.vaults) == ["offsite"]
    assert [source.name for policy in policies for source in policy.sources] == ["web01", "etc"]


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "adr").glob("*.md"))

    assert numbers == list(range(1, len(numbers) + 1))


def test_the_tree_names_no_machine_and_no_registry() -> None:
    found = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # test data
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in FOREIGN.finditer(text)]

    assert found == []
