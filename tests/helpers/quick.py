"""What mmengine does at length and nobody here needs is left out, in tests and their processes."""

from functools import cache

from mmengine import hub
from mmengine.config import utils
from yapf.yapflib import yapf_api

# it formats a config's text each time it writes one, which takes longer than most trainings here;
# the text is Python without that too
yapf_api.FormatCode = lambda text, **_: (text, True)

# it reads a package's whole index, half a second, for each config that is based on one of these
utils._get_cfg_metainfo = hub.hub._get_cfg_metainfo = cache(utils._get_cfg_metainfo)
