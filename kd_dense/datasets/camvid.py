"""CamVid for mmseg: frames filmed from a car, 11 classes [1], in the split and grouping of [2].

A module of its own, not imported by ``kd_dense.datasets``: detection does without mmseg.

1. G. Brostow, J. Fauqueur, R. Cipolla. Semantic object classes in video: a high-definition ground
   truth database. Pattern Recognition Letters 30(2), 2009. https://doi.org/10.1016/j.patrec.2008.04.005
2. V. Badrinarayanan, A. Kendall, R. Cipolla. SegNet: a deep convolutional encoder-decoder
   architecture for image segmentation. TPAMI 39(12), 2017. https://arxiv.org/abs/1511.00561
"""

from typing import Any, ClassVar

from ..errors import SetupError

try:
    from mmseg.datasets import BaseSegDataset
    from mmseg.registry import DATASETS
except ImportError as error:
    raise SetupError(
        f'CamVid is read by mmsegmentation, which cannot be imported here ({error}): '
        "pip install 'kd_dense[seg]'"
    ) from error


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid as pairs of `.jpg` frames and `.png` labels: 0 to 10 by ``METAINFO``, 255 ignored.

    Differs from [1]: its 32 classes are grouped into the 11 of [2], and its void class is ignored.
    One dataset reads one split; the usual protocol trains on two, `train` and `val`, by a
    ``ConcatDataset``, and evaluates on `test`.

    Args:
        img_suffix, seg_map_suffix: endings of the files of a frame and its label.
        **kwargs: as ``BaseSegDataset`` has them; ``data_prefix`` names the split's folders.
    """

    METAINFO: ClassVar[dict[str, Any]] = dict(
        classes=(
            *('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car'),
            *('pedestrian', 'bicyclist'),
        ),
        # the original's colours of these classes
        palette=[
            *([128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192]),
            *([128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0]),
            [0, 128, 192],
        ],
    )

    def __init__(self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
