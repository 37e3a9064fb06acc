"""Puts the C library into the wheel: the one that CLOUDSKIN_GEDS_LIBRARY names, else the one that `cargo build --release --workspace` has made."""

import os
import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

HERE = Path(__file__).resolve().parent
NAME = "libcloudskin_geds.so"

library = Path(os.environ.get("CLOUDSKIN_GEDS_LIBRARY") or HERE.parent.parent / "target" / "release" / NAME)
inside = HERE / "cloudskin_geds" / NAME
if library.exists():
    shutil.copyfile(library, inside)
elif not inside.exists():
    raise SystemExit(f"{library} is missing: run `cargo build --release --workspace`, or name the library by CLOUDSKIN_GEDS_LIBRARY")


class Binary(Distribution):
    """The wheel is for this kind of machine, but for any Python 3: the library is called through ctypes."""

    def has_ext_modules(self):
        return True



class AnyPython(bdist_wheel):
    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


setup(distclass=Binary, cmdclass={"bdist_wheel": AnyPython})
