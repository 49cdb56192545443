"""What packages hold beside their modules, compressed in memory, where `importlib.resources` finds it."""

import errno
import functools
import io
import os
import zlib
from importlib.resources.abc import Traversable, TraversableResources

# Package → file name → compressed bytes.
_packages = {}


@functools.cache
def _compressed(data):
    # Kept by content: half of the time zones are other names of the rest.
    return zlib.compress(data, 9)


def take(package, name, data):
    """Keeps one file of a package."""
    _packages.setdefault(package, {})[name] = _compressed(data)


def reader_of(package):
    """For a loader's `get_resource_reader`."""
    return _Reader(package) if package in _packages else None


class _Reader(TraversableResources):
    def __init__(self, package):
        self._package = package

    def files(self):
        return _Folder(self._package)


class _Folder(Traversable):
    name = None  # Abstract above; each has its own.

    def __init__(self, package):
        self._files = _packages[package]
        self.name = package.rpartition(".")[2]

    def iterdir(self):
        return map(self.joinpath, self._files)

    def is_dir(self):
        return True

    def is_file(self):
        return False

    def joinpath(self, *names):
        name = "/".join(names)
        return _File(name, self._files.get(name))

    def open(self, *_, **__):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.name)


class _File(Traversable):
    name = None

    def __init__(self, name, data):
        self.name = name
        self._data = data

    def iterdir(self):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.name)

    def is_dir(self):
        return False

    def is_file(self):
        return self._data is not None

    def open(self, mode="r", *args, **kwargs):
        if self._data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.name)
        file = io.BytesIO(zlib.decompress(self._data))
        return file if "b" in mode else io.TextIOWrapper(file, *args, **kwargs)
