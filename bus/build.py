"""What this code is called: version of the package, told in every hello."""

from importlib.metadata import PackageNotFoundError, version

try:
    BUILD = version("headrace")
except PackageNotFoundError:  # run from a tree that was not installed
    BUILD = "source"
