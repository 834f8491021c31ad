"""The version of what is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("diekae")
except PackageNotFoundError:  # a source tree on the path, never installed
    __version__ = "0+unknown"
