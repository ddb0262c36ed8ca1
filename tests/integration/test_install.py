"""What users get from `pip install eventsrc`: SQLite alone, and how DynamoDB is added. pip needs a package registry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*command: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path) -> Path:
    """The Python of a new environment in which the wheel is installed, without extras."""
    environment = wheel.parent / "environment"
    run(sys.executable, "-m", "venv", environment, cwd=wheel.parent)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=wheel.parent)
    return python


def test_the_wheel_brings_three_packages_and_few_bytes(bare: Path) -> None:
    code = """
        from importlib.metadata import distributions
        for each in distributions():
            print(each.name, sum(file.locate().stat().st_size for file in each.files if file.locate().exists()))
    """
    listed = run(bare, "-c", textwrap.dedent(code), cwd=bare.parent).stdout.splitlines()
    sizes = {canonicalize_name(name): int(size) for name, size in map(str.split, listed)}
    installed = {name: size for name, size in sizes.items() if name not in ("pip", "setuptools")}
    assert installed.keys() == {"eventsrc", "lz4", "msgspec", "tenacity"}
    assert sum(installed.values()) < 13_000_000  # with compiled modules; 9 MB without


def test_the_tutorial_runs_on_the_bare_wheel_up_to_dynamodb(bare: Path, tmp_path: Path) -> None:
    local, dynamodb, _ = (ROOT / "docs" / "tutorial.md").read_text().partition("\n## On DynamoDB\n")
    assert dynamodb
    assert "await accounts.execute(" in local
    blocks = "\n".join(BLOCK.findall(local))
    program = """
        import ast, asyncio, sys
        code = compile(sys.stdin.read(), "tutorial.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        asyncio.run(eval(code, globals()))
        print("finished")
    """
    done = subprocess.run(
        [bare, "-W", "error", "-c", textwrap.dedent(program)],
        input=blocks, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "finished"


USES = [
    "from eventsrc import DynamoDBStore; DynamoDBStore('ledger')",
    "from eventsrc import open_store; open_store('dynamodb://ledger?region=eu-west-1')",
    "from eventsrc.processing import DynamoDBCheckpoints; DynamoDBCheckpoints('models')",
    "from eventsrc.processing import open_checkpoints; open_checkpoints('dynamodb://models')",
    "from eventsrc.local import DynamoDBLocal; DynamoDBLocal('http://localhost:8000', 'endpoint').store('ledger')",
]


@pytest.mark.parametrize("use", USES)
def test_dynamodb_without_its_extra_is_refused_with_the_install_command(bare: Path, use: str) -> None:
    done = run(bare, "-c", use, cwd=bare.parent, check=False)
    assert done.stderr.splitlines()[-1] == (
        'ModuleNotFoundError: DynamoDB needs aiobotocore and httptools; run: pip install "eventsrc[dynamodb]"'
    )


def test_everything_but_dynamodb_is_importable_on_the_bare_wheel(bare: Path) -> None:
    """Also the names of the classes for DynamoDB, which annotations and `isinstance` may need."""
    code = """
        import sys
        import eventsrc, eventsrc.local, eventsrc.processing, eventsrc.publishing, eventsrc.stores, eventsrc.testing
        for door in (eventsrc, eventsrc.processing, eventsrc.publishing, eventsrc.stores, eventsrc.testing):
            for name in door.__all__:
                getattr(door, name)
    """
    run(bare, "-c", textwrap.dedent(code), cwd=bare.parent)


def test_a_part_of_the_sdk_is_not_enough() -> None:
    """As after `pip install eventsrc aiobotocore`."""
    code = f"import sys; sys.modules['httptools'] = None; {USES[0]}"
    done = run(sys.executable, "-c", code, cwd=ROOT, check=False)
    assert done.stderr.splitlines()[-1] == (
        'ModuleNotFoundError: DynamoDB needs httptools; run: pip install "eventsrc[dynamodb]"'
    )


def test_the_extra_is_what_the_error_asks_for(wheel: Path) -> None:
    code = f"""
        import sys
        sys.path.insert(0, {str(wheel)!r})
        from importlib.metadata import distribution
        print(*distribution("eventsrc").requires, sep="\\n")
    """
    listed = run(sys.executable, "-I", "-c", textwrap.dedent(code), cwd=wheel.parent).stdout.splitlines()
    requirements = [Requirement(each) for each in listed]
    added = {each.name for each in requirements if each.marker and each.marker.evaluate({"extra": "dynamodb"})}
    assert added == {"aiobotocore", "httptools"}
