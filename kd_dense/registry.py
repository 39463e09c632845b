"""The registries of kd_dense: children of mmengine's, in the scope ``kd_dense``.

Write our types with their prefix in configs (``type='kd_dense.Distiller'``): an unprefixed type
is looked up in the current default scope, which is ``mmdet`` or ``mmseg``.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_WRAPPERS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_INITIALIZERS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='kd_dense', locations=['kd_dense'])
DATASETS = Registry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='kd_dense',
    locations=['kd_dense.store.dataset', 'kd_dense.unlabelled'],
)
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_SAMPLERS, scope='kd_dense', locations=['kd_dense.unlabelled']
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='kd_dense', locations=['kd_dense.hooks'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_CONSTRUCTORS,
    scope='kd_dense',
    locations=['kd_dense.losses.adversarial.optim', 'kd_dense.live_optim'],
)
OPTIM_WRAPPERS = Registry(
    'optim wrapper', parent=MMENGINE_WRAPPERS, scope='kd_dense', locations=['kd_dense.autocast']
)
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=MMENGINE_INITIALIZERS,
    scope='kd_dense',
    locations=['kd_dense.backbones'],
)
# kinds of views, the general ones first: of those that fit a model the one registered last is taken
VIEWS = Registry('view', scope='kd_dense', locations=['kd_dense.views'])
TEACHERS = Registry('teacher', scope='kd_dense', locations=['kd_dense.teachers'])
PEERS = Registry('peer', scope='kd_dense', locations=['kd_dense.peers'])
