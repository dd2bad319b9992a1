"""What `make setup LOCKED=1` installs: exact versions of everything that the project needs, and of nothing local."""

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

tomllib = pytest.importorskip("tomllib")  # Python 3.11

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [Requirement(text) for text in (*PROJECT["dependencies"], *(text for of in EXTRAS.values() for text in of))]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
LOCKED = [Requirement(line) for line in LINES]
PYTHONS = [f"3.{minor}" for minor in range(10, 15)]


def locked(name: str, python: str = f"3.{sys.version_info.minor}", platform: str = "linux") -> Version:
    """The one version of a package for a Python on a platform."""
    place = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": platform}
    found = [
        entry for entry in LOCKED
        if entry.name == canonicalize_name(name) and (entry.marker is None or entry.marker.evaluate(place))
    ]  # fmt: skip
    assert len(found) == 1, f"{name} on Python {python}: {found}; run `make lock`"
    return Version(str(found[0].specifier).removeprefix("=="))


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_lock_satisfies_the_project(python, platform):
    for requirement in DECLARED:
        entry = locked(requirement.name, python, platform)
        assert requirement.specifier.contains(entry, prereleases=True), f"{requirement}: {entry}; run `make lock`"


def test_the_lock_is_complete():
    """Whatever the packages installed here need in turn is in it, too."""
    known, new = set(), {(requirement.name, extra) for requirement in DECLARED for extra in ("", *requirement.extras)}
    while new:
        name, extra = new.pop()
        known.add((name, extra))
        try:
            here = Version(version(name)).public
        except PackageNotFoundError:  # of an extra that is not installed
            continue
        if here != str(locked(name)):  # another version may need other packages
            continue
        for of in map(Requirement, requires(name) or []):
            if of.marker is None or of.marker.evaluate({"extra": extra}):
                new |= {(of.name, further) for further in ("", *of.extras)} - known


def test_the_lock_names_no_place_and_no_local_build():
    for line in LINES:
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][a-z0-9.]*( ; .*)?", line), line


def test_the_style_is_checked_with_the_locked_version():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["rev"] for repo in hooks if "ruff" in repo["repo"]] == [f"v{locked('ruff')}"]


def test_every_pushed_change_passes_what_a_change_must():
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]["test"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    oldest = re.search(r"\d\.\d+", PROJECT["requires-python"])[0]
    assert oldest in job["strategy"]["matrix"]["python"] and oldest == PYTHONS[0]
