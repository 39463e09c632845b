"""How Sphinx builds these pages: `make docs`, offline, with every warning an error."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = 'kd_dense'
copyright = 'the kd_dense authors'
release = re.search(r"'(.+)'", (ROOT / 'kd_dense' / 'version.py').read_text()).group(1)

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']
exclude_patterns = ['_build', 'results/**']  # what results.md is made of
myst_heading_anchors = 3
autodoc_typehints = 'description'
autodoc_member_order = 'bysource'
napoleon_use_ivar = True  # fields of named tuples are documented once
html_theme = 'furo'
html_title = f'kd_dense {release}'
