"""The packages that kd_dense stands on: checked when it is imported, because pip may replace none.

Installing kd_dense leaves torch and the OpenMMLab packages as they are.
"""

import importlib
from collections.abc import Mapping

from packaging.specifiers import SpecifierSet

# docs/compatibility.md names the combinations that were tried
NEEDED = {
    'torch': '>=2.1,<3',
    'torchvision': '>=0.16,<1',
    'mmengine': '>=0.10.7,<1',
    'mmcv': '>=2.1,<3',
    'mmdet': '>=3.3,<4',
}
NEEDED_BY_SEGMENTATION = {'mmseg': '>=1.2.2,<2'}


def check_stack() -> None:
    """Import what kd_dense needs, and compare its versions.

    Raises:
        ImportError: a package is missing, does not import, or has another version.
    """
    if found := problems(NEEDED) or operator_problems():
        raise ImportError(
            f'kd_dense does not fit the packages installed here: {"; ".join(found)}. Install the '
            'versions named, or the maintained packages into a new environment: pip install '
            "'torch>=2.11,<2.12' 'torchvision>=0.26,<0.27' wheel ninja psutil, and then pip "
            "install --no-build-isolation 'kd_dense[stack]'."
        )


def problems(needed: Mapping[str, str]) -> list[str]:
    """Compare installed packages with what is needed.

    Args:
        needed: the range of versions of each package, by the name it is imported by.

    Returns:
        A phrase for each package that is missing, does not import, or has another version.
    """
    found = []
    for name, versions in needed.items():
        try:
            version = importlib.import_module(name).__version__
        except (ImportError, AssertionError) as error:  # mmdet asserts the versions below it
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            what = 'is not installed' if missing else f'cannot be imported ({error})'
            found.append(f'{name} {what}, needed is {name}{versions}')
            continue
        if not SpecifierSet(versions).contains(version, prereleases=True):
            found.append(f'{name} is {version}, needed is {name}{versions}')
    return found


def operator_problems() -> list[str]:
    """Load mmcv's compiled operators; return a phrase if they do not load."""
    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        return [
            f'the compiled operators of mmcv cannot be loaded ({error}), needed is an mmcv '
            'compiled against this very torch (MMCV_WITH_OPS=1 pip install --no-build-isolation)'
        ]
    return []
