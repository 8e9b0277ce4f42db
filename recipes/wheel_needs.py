"""What a wheel needs, one requirement a line, but for some packages: they have other builds, or none is wanted.

python recipes/wheel_needs.py a.whl --without torch,torchvision
"""

from __future__ import annotations

import argparse
import email
import re
import zipfile
from collections.abc import Collection
from pathlib import Path


def needs(wheel: Path, without: Collection[str]) -> list[str]:
    """The requirements in a wheel's metadata, those of extras left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        found = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    plain = [one for one in found if "extra ==" not in one]
    return [one for one in plain if re.match(r"[\w.-]+", one)[0].lower() not in without]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--without", default="")
    given = parser.parse_args()
    print("\n".join(needs(given.wheel, given.without.split(","))))
