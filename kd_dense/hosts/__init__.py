"""The hosts, mmdet and mmseg: their models, configs, checkpoints and heads.

The one folder that knows what is inside them; what else wants to know asks a view.
"""

from .models import (
    DISTILLER_TYPES,
    Host,
    ModelSource,
    build_model,
    need_mmseg,
    read_config_file,
    read_model_config,
    without_downloads,
)
from .rng import isolated_rng, numbered_generator, seeded_rng

__all__ = [
    'DISTILLER_TYPES',
    'Host',
    'ModelSource',
    'build_model',
    'isolated_rng',
    'need_mmseg',
    'numbered_generator',
    'read_config_file',
    'read_model_config',
    'seeded_rng',
    'without_downloads',
]
