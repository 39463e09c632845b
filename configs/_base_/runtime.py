# What every training of ours shares: mmdet's runtime, and kd_dense imported so that its types are known.
_base_ = ['mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['kd_dense', 'kd_dense.hooks'], allow_failed_imports=False)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend')])
auto_scale_lr = dict(enable=True, base_batch_size=16)
