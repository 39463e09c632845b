"""A transform that a store cannot be written with."""

from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module(force=True)
class Remembering(BaseTransform):
    """Brightens each picture by how many there were before."""

    def __init__(self) -> None:
        self.seen = 0

    def transform(self, results: dict) -> dict:
        self.seen += 1
        results['img'] = results['img'] + self.seen
        return results
