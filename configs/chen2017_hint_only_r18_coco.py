# Hints with adaptation alone, the other losses of chen2017_faster_rcnn_r18_coco.py off; not measured by us
# tools/dist_train.sh configs/chen2017_hint_only_r18_coco.py 8
_base_ = ['./chen2017_faster_rcnn_r18_coco.py']
model = dict(
    losses=dict(
        rpn_cls=dict(weight=0),
        roi_cls=dict(weight=0),
        rpn_reg=dict(weight=0),
        roi_reg=dict(weight=0),
    )
)
