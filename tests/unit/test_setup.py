"""The set-up of the project: the lock files fit pyproject.toml, and one image is named everywhere."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from eventsrc.local.docker import IMAGE

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]

each_lock = pytest.mark.parametrize("lock", ["demo.txt", "dev.txt"])


def pinned(lock: str) -> dict[str, set[str]]:
    """The versions of each package in a lock file; several where they differ by Python or platform."""
    versions = defaultdict(set)
    for name, version in re.findall(r"^(\S+)==(\S+)", (ROOT / "requirements" / lock).read_text(), re.MULTILINE):
        versions[name].add(version)
    return dict(versions)


def group(name: str) -> list[str]:
    """The requirements of a dependency group and of those that it includes."""
    found: list[str] = []
    for each in GROUPS[name]:
        found += [each] if isinstance(each, str) else group(each["include-group"])
    return found


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("demo.txt", [*CORE, *group("examples")]),
        ("dev.txt", [*CORE, *(each for extra in EXTRAS.values() for each in extra if "[" not in each), *group("dev")]),
    ],
)
def test_a_lock_file_has_what_the_project_requires(lock: str, requirements: list[Any]) -> None:
    """`make lock` corrects it."""
    versions = pinned(lock)
    for requirement in map(Requirement, requirements):
        found = versions[canonicalize_name(requirement.name)]
        assert all(Version(version) in requirement.specifier for version in found), requirement


def test_the_demo_runs_on_the_versions_that_are_tested() -> None:
    tested = pinned("dev.txt")
    assert all(versions <= tested[name] for name, versions in pinned("demo.txt").items())


def test_the_demo_installs_no_tools_and_no_extras() -> None:
    extras = [each for extra in EXTRAS.values() for each in extra]
    tools = {canonicalize_name(Requirement(each).name) for each in [*group("dev"), *extras]}
    assert tools & pinned("demo.txt").keys() == {"rich"}


@each_lock
def test_every_package_of_a_lock_file_has_hashes(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    packages = re.split(r"^(?=\S+==)", text, flags=re.MULTILINE)[1:]
    assert len(packages) >= len(pinned(lock)) > 0
    assert all("--hash=sha256:" in package for package in packages)


@each_lock
def test_a_lock_file_names_no_host(lock: str) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted", (ROOT / "requirements" / lock).read_text())


def test_dynamodb_requires_a_sdk_that_checks_the_names_in_certificates() -> None:
    """And no package that pins an older one, or a version of boto3."""
    [sdk, parser] = map(Requirement, EXTRAS["dynamodb"])
    assert (sdk.name, parser.name) == ("aiobotocore", "httptools")
    assert not sdk.specifier.contains("3.9.2")
    assert sdk.specifier.contains("3.10.0")
    assert not any(each.operator in ("==", "<", "<=", "~=") for each in sdk.specifier)
    assert "boto3" not in " ".join(CORE + [each for extra in EXTRAS.values() for each in extra])


def test_the_sdk_is_the_only_client_that_the_library_imports() -> None:
    imported = re.compile(r"^\s*(?:from|import) (?:aio)?boto3\b", re.MULTILINE)
    assert not [path for path in (ROOT / "eventsrc").rglob("*.py") if imported.search(path.read_text())]


def test_docker_compose_starts_the_image_of_the_tests() -> None:
    assert re.findall(r"image: (\S+)", (ROOT / "docker-compose.yml").read_text()) == [IMAGE]
    assert not IMAGE.endswith(":latest")
