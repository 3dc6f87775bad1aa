"""Maps by Triton kernels are those of PyTorch, entry by entry: on a GPU, else in Triton's interpreter."""
import os
import subprocess
import sys
from dataclasses import astuple

import pytest
import torch

pytest.importorskip('triton', reason='triton is not installed')
from perception.ops import launch
from perception.ops.launch import CannotCompile
from perception.ops.sparse import maps, maps_triton
from perception.ops.sparse.maps import Geometry, VoxelSet

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
GRID, BATCH = (7, 12, 5), 3


def make_voxels(shuffled, share=0.4):
    generator = torch.Generator().manual_seed(0)
    occupied = torch.rand(BATCH, *GRID, generator=generator) < share
    occupied[1] = False  # a scan without voxels
    occupied[::2, ::GRID[0] - 1, ::GRID[1] - 1, ::GRID[2] - 1] = share > 0  # corners
    coords = occupied.nonzero()
    if shuffled:
        coords = coords[torch.randperm(len(coords), generator=generator)]
    voxels = VoxelSet(coords.to(DEVICE), GRID, BATCH)
    voxels.voxel_coords = voxels.voxel_coords.t().contiguous().t()  # as `nonzero` of CUDA leaves them in memory
    return voxels


@pytest.fixture
def by_torch(monkeypatch):
    """Calls a function that makes maps, by PyTorch on a GPU too."""
    def call(make, *args):
        with monkeypatch.context() as patch:
            patch.setattr(launch, 'has_triton', lambda: False)
            return make(*args)
    return call


@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize(('kernel', 'dilation'), [
    ((3, 3, 3), (1, 1, 1)), ((1, 5, 3), (1, 1, 2)), ((3, 1, 3), (3, 1, 1)), ((1, 1, 3), (1, 1, 1))])
def test_tables_of_submanifold_maps_are_equal(by_torch, kernel, dilation, shuffled):
    voxels = make_voxels(shuffled)
    assert len(voxels) < maps_triton.ROWS or len(voxels) % maps_triton.ROWS
    expected = by_torch(maps.build_subm_map, voxels, kernel, dilation).neighbours
    found = maps_triton.subm_neighbours(voxels.voxel_coords, GRID, BATCH, kernel, dilation)
    assert found.dtype == expected.dtype and torch.equal(found, expected)


@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize(('kernel', 'stride', 'padding', 'dilation'), [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)), ((3, 3, 3), (2, 2, 1), (1, 1, 1), (1, 1, 1)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)), ((3, 2, 1), (1, 3, 2), (2, 0, 0), (1, 2, 1)),
    ((1, 1, 2), (3, 3, 1), (0, 2, 0), (1, 1, 4))])
def test_tables_of_strided_maps_and_their_voxels_are_equal(by_torch, kernel, stride, padding, dilation, shuffled):
    voxels, geometry = make_voxels(shuffled), Geometry(kernel, stride, padding, dilation)
    target, kernel_map = by_torch(maps.build_strided_map, voxels, geometry)
    coords, down, up = maps_triton.strided_neighbours(voxels.voxel_coords, geometry.out_shape(GRID), BATCH,
                                                      kernel, stride, padding, dilation)
    for found, expected in ((coords, target.voxel_coords), (down, kernel_map.neighbours),
                            (up, kernel_map.transposed().neighbours)):
        assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_no_voxels():
    voxels, geometry = make_voxels(False, share=0), Geometry((2, 2, 2), (2, 2, 2))
    assert maps_triton.subm_neighbours(voxels.voxel_coords, GRID, BATCH, (3, 3, 3), (1, 1, 1)).shape == (27, 0)
    coords, down, up = maps_triton.strided_neighbours(voxels.voxel_coords, geometry.out_shape(GRID), BATCH,
                                                      *astuple(geometry))
    assert (coords.shape, down.shape, up.shape) == ((0, 4), (8, 0), (8, 0))


def test_on_a_gpu_kernels_make_what_fits_a_grid_with_one_wait_a_level(by_torch, monkeypatch, as_if_on_gpu, waits):
    geometry = Geometry((3, 3, 3), (2, 2, 2), (1, 1, 1))
    expected = by_torch(maps.build_strided_map, make_voxels(True), geometry)[1]
    voxels, asked = make_voxels(True), []
    for name in ('subm_neighbours', 'strided_neighbours'):
        made = getattr(maps_triton, name)
        monkeypatch.setattr(maps_triton, name, lambda *args, made=made: asked.append(made.__name__) or made(*args))
    with waits() as found:
        subm = voxels.subm_map((3, 1, 3), (1, 1, 1))
        target, kernel_map = voxels.strided_map(geometry)
    assert asked == ['subm_neighbours', 'strided_neighbours'] and not as_if_on_gpu
    assert [where.split()[0] for where in found] == ['nonzero']
    assert torch.equal(kernel_map.neighbours, expected.neighbours) and len(target) == expected.num_out
    assert kernel_map.transposed().kind == 'inverse' and len(kernel_map.parity.rows) == 8
    assert subm.ordered == kernel_map.ordered == (voxels.order is None)
    monkeypatch.setattr(maps, 'MAX_GRID_CELLS', 10)
    again = maps.build_strided_map(voxels, geometry)[1]
    assert torch.equal(again.neighbours, expected.neighbours) and len(asked) == 2


def test_a_gpu_without_programs_is_said_once_and_pytorch_goes_on(by_torch, monkeypatch, as_if_on_gpu):
    voxels = make_voxels(False)

    def broken(*args):
        raise CannotCompile('kernel maps on CUDA: no such instruction on sm_50')

    monkeypatch.setattr(maps_triton, 'subm_neighbours', broken)
    for kernel in ((3, 3, 3), (1, 5, 1)):
        expected = by_torch(maps.build_subm_map, voxels, kernel, (1, 1, 1))
        assert torch.equal(maps.build_subm_map(voxels, kernel, (1, 1, 1)).neighbours, expected.neighbours)
    assert as_if_on_gpu == ['kernel maps on CUDA: no such instruction on sm_50; PyTorch does it']


def test_programs_compile_without_a_gpu():
    """For an old and a new GPU; in a process of its own, since this one interprets them."""
    env = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    run = subprocess.run([sys.executable, '-c', COMPILED], capture_output=True, text=True, timeout=120,
                         env=dict(env, PYTHONPATH=os.pathsep.join(sys.path)))
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == 2 * ['look_up', 'meet', 'meet', 'number', 'spread']


COMPILED = '''
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from perception.ops.sparse.maps_triton import _kernels
types = dict(coords='*i64', keys='*i64', **dict.fromkeys(('grid', 'found', 'numbers', 'down', 'up'), '*i32'))
for device in (70, 120):
    for name, mark in (('look_up', None), ('meet', True), ('meet', False), ('number', None), ('spread', None)):
        kernel, constants = getattr(_kernels(), name), dict(ROWS=256) if mark is None else dict(ROWS=256, MARK=mark)
        signature = {word: 'constexpr' if word in constants else types.get(word, 'i32') for word in kernel.arg_names}
        if mark:
            signature.update(numbers='*i8')
        made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget('cuda', device, 32))
        assert made.asm['ptx']
        print(name)
'''
