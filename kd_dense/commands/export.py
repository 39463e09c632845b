"""Export a trained student: plain checkpoint and config, and an ONNX graph where asked.

kd-dense export configs/ld_r18.py work_dirs/ld_r18/epoch_12.pth --onnx
"""

import argparse
import shutil
from pathlib import Path

from ..export import read_plain, write_plain
from ..export.onnx import predict_onnx
from ..launch import (
    at_least,
    command_line,
    file_name,
    model_option,
    override_options,
    read_config,
    share,
)
from ..record import command_used


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config that the student was trained with')
    parser.add_argument('checkpoint', help='distilled or plain checkpoint, path or URL')
    parser.add_argument('--out', type=Path, help='folder; default: export, beside the checkpoint')
    parser.add_argument(
        '--name', type=file_name, default='student', help='of the files, default: %(default)s'
    )
    model_option(parser)
    parser.add_argument('--onnx', action='store_true', help='write an ONNX graph too')
    parser.add_argument('--image', help='to compare on; default: the first of the test data')
    parser.add_argument(
        '--size',
        type=at_least(1),
        nargs=2,
        metavar=('H', 'W'),
        help='of the image to compare on; default: as in testing. The graph takes other sizes too',
    )
    parser.add_argument(
        '--no-normalize',
        action='store_true',
        help='leave normalising out of the graph; default: it takes RGB from 0 to 255',
    )
    parser.add_argument(
        '--tolerance',
        type=share,
        default=1e-4,
        help='by which ONNX may differ from torch, of the largest value; default: %(default)s',
    )
    override_options(parser)
    return parser.parse_args()


def export_onnx(plain, args: argparse.Namespace, folder: Path) -> None:
    """Write the graph, compare it with the model, and say what it is."""
    from ..export.onnx.compare import compare, find_example
    from ..export.onnx.write import write_onnx

    normalize = not args.no_normalize
    example, source = find_example(plain, args.image, args.size)
    path = folder / f'{args.name}.onnx'
    graph = write_onnx(plain, path, example, normalize)
    print(f'{path}  ({path.stat().st_size / 1e6:.1f} MB)\n  {graph.kind}')
    if graph.missing:
        print(f'  {graph.missing}')
    print(f'  onnxruntime against torch on {source}:')
    for difference in compare(plain, graph, path, example, args.tolerance):
        print(f'    {difference}')
    shutil.copyfile(predict_onnx.__file__, folder / 'predict_onnx.py')
    print(f'{folder / "predict_onnx.py"}  (how to use it, with numpy, Pillow and onnxruntime)')


def main() -> None:
    """Export."""
    args = parse_args()
    with command_line(args):
        if args.onnx:
            from ..export.onnx.write import need_onnx

            need_onnx()
        config = read_config(args)
        made_by = dict(config=args.config, command=command_used())
        plain = read_plain(config, args.checkpoint, made_by, args.model)
        remote = '://' in args.checkpoint
        beside = (
            Path('work_dirs') / Path(args.config).stem if remote else Path(args.checkpoint).parent
        )
        folder = args.out or beside / 'export'
        for path in write_plain(plain, folder, args.name):
            print(path)
        made = plain.meta['made_by']
        metrics = made.get('metrics') or {}
        # COCO says -1 where there are no such objects
        told = ', '.join(f'{key} {value:g}' for key, value in metrics.items() if value >= 0)
        print(f'  metrics: {told or made.get("metrics_missing", "not known of a download")}')
        if args.onnx:
            export_onnx(plain, args, folder)
