"""Optional dependencies: the extras of the package."""

import importlib
from types import ModuleType


class ExtraNotInstalledError(ImportError, ValueError):
    """A package that only an extra installs is missing; the message says which."""


def import_extra(module: str, extra: str) -> ModuleType:
    """
    Imports a package that an extra of scmm installs.

    Args:
        module (`str`): the package's name.
        extra (`str`): the extra that installs it.

    Returns:
        `ModuleType`: the package.

    Raises:
        ExtraNotInstalledError: if it is not installed.

    Example:

    ```python
    >>> from scmm.extras import import_extra
    >>> import_extra("no_such_package", "gallery")
    Traceback (most recent call last):
    scmm.extras.ExtraNotInstalledError: no_such_package is not installed: pip install "scmm[gallery]"

    ```
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExtraNotInstalledError(f'{module} is not installed: pip install "scmm[{extra}]"') from error
