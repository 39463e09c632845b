# Pixel-wise, with a Mask2Former R50 (80.44 mIoU published by mmseg) as the teacher: what its queries add up to at each
# pixel. No figure of this pair is published, and none was measured by us
# tools/dist_train.sh configs/cityscapes/pixel-mask2former_pspnet_r18_cityscapes.py 4
_base_ = ['./pixel_pspnet_r18_cityscapes.py']
model = dict(
    teacher=dict(
        config='mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py',
        checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/mask2former/'
        'mask2former_r50_8xb2-90k_cityscapes-512x1024/'
        'mask2former_r50_8xb2-90k_cityscapes-512x1024_20221202_140802-ffd9d750.pth',
    )
)
