"""What foveate says about the transformers it finds, and that the list of known ones is true."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import transformers

from foveate.hosts import versions

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def a_fresh_process():
    versions.check.cache_clear()
    yield
    versions.check.cache_clear()


@pytest.mark.parametrize("version", ["5.18.0", "5.22.0", "5.23.0", "5.23.4", "5.22.1"])
def test_tested_versions_pass_in_silence(version):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        versions.check(version)


@pytest.mark.parametrize(
    "version", ["5.19.2", "5.24.0", "5.24.0.dev0", "6.0.0rc1", "5.2300", "main"]
)
def test_unknown_versions_get_one_warning_that_names_them(version):
    with pytest.warns(UserWarning, match=re.escape(version)) as seen:
        for _ in range(3):
            versions.check(version)
    assert len(seen) == 1
    assert all(known in str(seen[0].message) for known in versions.KNOWN)


@pytest.mark.parametrize("version", ["5.17.0", "5.2.0", "4.57.3"])
def test_versions_that_cannot_work_are_refused(version):
    for _ in range(2):  # every time: an error is not something to say once
        with pytest.raises(ImportError, match=rf"{re.escape(version)}.*>=5\.18,<6"):
            versions.check(version)


def test_the_version_in_use_is_known():
    series = ".".join(transformers.__version__.split(".")[:2])
    assert series in versions.KNOWN


def test_make_runs_every_known_version():
    listed = re.search(r"^VERSIONS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert tuple(v.rpartition(".")[0] for v in listed[1].split()) == versions.KNOWN
    pinned = re.search(
        r"^transformers==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
    assert pinned[1] in listed[1].split()
