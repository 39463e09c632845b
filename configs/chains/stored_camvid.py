# How many stored views of each image a segmentor needs: 1, 2 and 4 against a teacher that runs, on CamVid
# python tools/chain.py configs/chains/stored_camvid.py
folder = 'work_dirs/chains/stored_camvid'
rows = 'docs/results/stored_camvid'
seeds = [0, 1, 2]
side_by_side = 2
_taught = dict(config='configs/camvid/cwd_pspnet_r18-quarter_camvid.py', teacher='{teacher}')
stages = dict(
    teacher=dict(config='configs/camvid/pspnet_r18-half_camvid.py', once=True, seed=0),
    views_1=dict(_taught, stored=1, title='1 stored view of each image'),
    views_2=dict(_taught, stored=2, title='2 stored views'),
    views_4=dict(_taught, stored=4, title='4 stored views'),
)
compare = dict(
    alone=dict(config='configs/camvid/pspnet_r18-quarter_camvid.py'),
    live=dict(_taught, title='the teacher runs'),
)
