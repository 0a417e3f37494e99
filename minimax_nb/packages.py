"""The versions this package was tested with, those that are installed, and the command that mends a difference."""

import importlib
import importlib.metadata
import re
from typing import NamedTuple

PIP = "python -m pip install"
INSTALL = f"{PIP} -e ."  # in the folder of this package
UNKNOWN = "versions not compared: minimax-nb itself is not installed, so those it was tested with are not known"


class Line(NamedTuple):
    """One finding. `ok` is False where something must be mended, None where it merely is not there."""

    name: str
    ok: bool | None
    found: str
    mend: str = ""

    def __str__(self) -> str:
        sign = {True: "OK", False: "MEND", None: "-"}[self.ok]
        return f"{sign:6}{self.name:23}{self.found}" + (f"\n      -> {self.mend}" if self.mend else "")


def pins(extra: str = "") -> dict[str, str]:
    """The versions this package was tested with, package -> version: those of `extra`, or those always installed.

    Empty where this package is run from its folder and is not installed: nothing can be compared then.
    """
    found = {}
    try:
        listed = importlib.metadata.requires("minimax-nb") or []
    except importlib.metadata.PackageNotFoundError:  # run from its folder, not installed
        listed = []
    for requirement in listed:
        match = re.fullmatch(r"([\w.-]+)==([\w.]+)(?:; *extra == ['\"](\w+)['\"])?", requirement)
        if match and (match[3] or "") == extra:
            found[match[1].lower()] = match[2]
    return found


def requirement(package: str, extra: str = "") -> str:
    """What pip is to install: "torch==2.13.0", or the bare name where the tested version is not known."""
    tested = pins(extra).get(package)
    return f"{package}=={tested}" if tested else package


def package_line(name: str, tested: str) -> Line:
    if not (version := package_version(name)):
        return Line(name, False, "not installed", f"{PIP} {name}=={tested}")
    if version.split("+")[0] == tested:
        return Line(name, True, version)
    index = " --index-url https://download.pytorch.org/whl/cpu" if version.endswith("+cpu") else ""
    return Line(name, False, f"{version}, tested with {tested}", f"{PIP} {name}=={tested}{index}")


def package_version(package: str) -> str:
    """Of an installed package, or nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def import_problem(module: str) -> str:
    """Why a module does not import, in a line, or nothing. A kernel built for another torch fails here."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return str(error).partition("\n")[0]
    return ""


def extra_line(name: str, extra: str) -> Line:
    """Whether the packages of an extra of pyproject.toml, which `name` needs, are here in the tested versions."""
    mend = f'{PIP} -e ".[{extra}]"'
    lines = [package_line(package, tested) for package, tested in pins(extra).items()]
    if not lines:
        return Line(name, None, UNKNOWN, mend)
    if absent := [line.name for line in lines if line.found == "not installed"]:
        return Line(name, None, f"{', '.join(absent)} not installed", mend)
    if other := [f"{line.name} {line.found}" for line in lines if not line.ok]:
        return Line(name, False, "; ".join(other), mend)
    return Line(name, True, ", ".join(f"{line.name} {line.found}" for line in lines))
