"""The standard library as marshalled code in memory: once the image is taken there is no file system to import from."""

import importlib.abc
import importlib.machinery
import marshal
import os
import sys

import package_data
import refusals
import tzdata

# Where componentize-py mounts the library while the image is made. Kept as the modules' file name.
ROOT = "/python/"

# No use without a screen, a terminal, a network or a package index. Tests of the library go as well.
LEFT_OUT = {
    "antigravity", "curses", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "this",
    "tkinter", "turtle", "turtledemo", "venv",
}  # fmt: skip
LEFT_OUT_EVERYWHERE = {"__pycache__", "idle_test", "test", "tests"}

# Imported while the image is made, so that a program's import of them costs nothing. The others cost 2 to 11 ms.
READY = """
__future__ _strptime abc argparse array ast asyncio base64 binascii bisect builtins calendar cmath codecs collections
collections.abc concurrent.futures configparser contextlib contextvars copy copyreg csv dataclasses datetime decimal
difflib doctest email.message enum errno fnmatch fractions functools gc glob graphlib gzip hashlib heapq hmac html
html.parser importlib.resources inspect io ipaddress itertools json keyword linecache locale logging math numbers
operator os os.path pathlib pickle platform pprint queue random re reprlib secrets shlex shutil sqlite3 statistics
string string.templatelib struct sys tempfile textwrap threading time timeit token tokenize tomllib traceback
tracemalloc types typing unicodedata unittest unittest.mock urllib.parse uuid warnings weakref
xml.etree.ElementTree zipfile zlib zoneinfo
""".split()

# Codecs are imported at the first use of their name.
READY_CODECS = "ascii cp1252 idna latin_1 unicode_escape utf_16 utf_32 utf_8 utf_8_sig".split()

# Module name → (is a package, marshalled code).
_modules = {}


class _Loader(importlib.abc.InspectLoader):
    def exec_module(self, module):
        super().exec_module(module)
        refusals.change(module)

    def get_code(self, fullname):
        return marshal.loads(_modules[fullname][1])

    def get_source(self, fullname):
        return None

    def is_package(self, fullname):
        return _modules[fullname][0]

    def get_resource_reader(self, fullname):
        return package_data.reader_of(fullname)


class _Finder:
    loader = _Loader()

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname not in _modules:
            return None
        is_package = _modules[fullname][0]
        spec = importlib.machinery.ModuleSpec(fullname, cls.loader, is_package=is_package)
        spec.origin = _file_of(fullname, is_package)
        spec.has_location = True
        return spec

    @staticmethod
    def invalidate_caches():
        pass


def _file_of(name, is_package):
    return ROOT + name.replace(".", "/") + ("/__init__.py" if is_package else ".py")


def _library_files():
    for directory, subdirectories, files in os.walk(ROOT):
        package = directory[len(ROOT) :].strip("/").replace("/", ".")
        skip = LEFT_OUT_EVERYWHERE if package else LEFT_OUT_EVERYWHERE | LEFT_OUT
        subdirectories[:] = [name for name in subdirectories if name not in skip]
        for file in files:
            stem, extension = os.path.splitext(file)
            if extension == ".py" and stem not in skip:
                yield package, stem, os.path.join(directory, file)


def _take_module(package, stem, path):
    is_package = stem == "__init__"
    name = package if is_package else f"{package}.{stem}" if package else stem
    if not name:
        return
    with open(path, "rb") as file:
        source = file.read()
    code = compile(source, _file_of(name, is_package), "exec", dont_inherit=True)
    _modules[name] = is_package, marshal.dumps(code)


def _take_time_zones():
    """The package that zoneinfo reads where a system has no zones of its own."""
    top = os.path.dirname(tzdata.__path__[0]) + "/"
    for directory, _, files in os.walk(tzdata.__path__[0]):
        package = directory[len(top) :].replace("/", ".")
        for file in files:
            path = os.path.join(directory, file)
            if file == "__init__.py":
                _take_module(package, "__init__", path)
                continue
            with open(path, "rb") as opened:
                data = opened.read()
            # The list and the compiled zones: not the tables that these come from.
            if file == "zones" or data.startswith(b"TZif"):
                package_data.take(package, file, data)
    del sys.modules["tzdata"]


def take():
    """Reads the library, imports what shall be ready, and cuts the interpreter off from the file system."""
    for package, stem, path in _library_files():
        _take_module(package, stem, path)
    _take_time_zones()
    for name in READY:
        __import__(name)
    for codec in READY_CODECS:
        "".encode(codec)

    sys.meta_path.append(_Finder)
    sys.path[:] = []
    sys.path_importer_cache.clear()
    sys.dont_write_bytecode = True
