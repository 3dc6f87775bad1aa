"""The Triton backend against the torch one in float64: on a GPU, else in Triton's interpreter (tests/conftest)."""
import os
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('triton', reason='triton is not installed')
import triton
from mmengine.utils import digit_version
from triton.errors import TritonError

from perception.ops import launch
from perception.ops.launch import CannotCompile
from perception.ops.sparse import functional
from perception.ops.sparse.backends import torch as reference
from perception.ops.sparse.backends import triton as backend
from perception.ops.sparse.functional import set_backend, sparse_conv
from perception.ops.sparse.maps import Geometry, KernelMap, VoxelSet
from perception.utils.errors import ConfigError

ON_GPU = torch.cuda.is_available()
DEVICE = 'cuda' if ON_GPU else 'cpu'
GRID = (5, 5, 3)
# Triton's interpreter multiplies float64 from 3.5 on
FLOAT64 = {torch.float64: 1e-14} if digit_version(triton.__version__) >= digit_version('3.5') else {}
# relative error; half precision rounds its result, which the interpreter cuts off for bfloat16
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 3e-3, torch.float16: 4e-4} if ON_GPU else {
    **FLOAT64, torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 4e-4}
LAYERS = [  # kernel, stride, padding, dilation; a stride of None stands for a sub-manifold one
    ((3, 1, 3), None, None, (1, 1, 1)), ((1, 3, 1), None, None, (1, 2, 1)), ((1, 1, 1), None, None, (1, 1, 1)),
    ((3, 2, 2), (2, 2, 1), (1, 0, 1), (1, 1, 1)), ((2, 2, 1), (2, 2, 1), (0, 0, 0), (1, 1, 1)),
    ((2, 3, 1), (1, 2, 2), (1, 0, 0), (2, 1, 1))]
CASES = [(layer, inverse, dtype) for layer in LAYERS for inverse in ((False,) if layer[1] is None else (False, True))
         for dtype in BOUNDS if dtype != torch.float64 or layer in (LAYERS[0], LAYERS[4])]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """Triton's interpreter keeps bfloat16 as bare bits, and would multiply those as whole numbers."""
    if ON_GPU:
        return
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle
    multiply = InterpreterBuilder.create_dot

    def dot(self, a, b, *args):
        if a.dtype.scalar == tl.bfloat16:
            a, b = (TensorHandle((part.data.astype('u4') << 16).view('f4'), tl.float32) for part in (a, b))
        return multiply(self, a, b, *args)

    monkeypatch.setattr(InterpreterBuilder, 'create_dot', dot)


def make_map(kernel, stride, padding, dilation, inverse=False, share=0.5, grid=GRID):
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, *grid, generator=generator) < share).nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)]
    voxels = VoxelSet(coords.to(DEVICE), grid, 2)
    if stride is None:
        return voxels.subm_map(kernel, dilation)
    kernel_map = voxels.strided_map(Geometry(kernel, stride, padding, dilation))[1]
    return kernel_map.transposed() if inverse else kernel_map


def operands(kernel_map, cin=5, cout=20, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    shapes = (kernel_map.num_in, cin), (cout, kernel_map.volume, 1, 1, cin), (kernel_map.num_out, cout)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype) for shape in shapes]


def check(kernel_map, dtype, cin=5, cout=20):
    """Values and both gradients; the results."""
    x, weight, grad = operands(kernel_map, cin, cout, dtype)
    found = backend.forward(x, weight, kernel_map), *backend.backward(x, weight, kernel_map, grad, True, True)
    x, weight, grad = (part.double() for part in (x, weight, grad))
    expected = (reference.forward(x, weight, kernel_map),
                *reference.backward(x, weight, kernel_map, grad, True, True))
    for got, right, kept in zip(found, expected, (dtype, dtype, torch.promote_types(dtype, torch.float32))):
        assert got.shape == right.shape and got.dtype == kept
        assert (got.double() - right).norm() <= BOUNDS[dtype] * right.norm()
    return found


@pytest.mark.parametrize(('layer', 'inverse', 'dtype'), CASES)
def test_values_and_gradients_of_every_kind_of_map(layer, inverse, dtype):
    check(make_map(*layer, inverse), dtype)


@pytest.mark.parametrize(('cin', 'cout'), [(1, 1), (3, 33), (16, 64), (70, 5), (17, 140)])
def test_any_number_of_channels(cin, cout):
    """Less than a block of 16, several blocks, and such that the last block is not full."""
    check(make_map((1, 1, 3), None, None, (1, 1, 1), share=0.2), torch.float32, cin, cout)


def test_rows_are_sorted_and_tiles_skip_offsets_that_none_of_their_rows_has():
    kernel_map = make_map((3, 1, 3), None, None, (1, 1, 1), grid=(9, 9, 4))
    plan = backend.Plan(kernel_map)
    order, rows = plan.order.long(), plan.rows[:, :kernel_map.num_out]
    assert torch.equal(order.sort()[0], torch.arange(kernel_map.num_out, device=DEVICE))
    assert torch.equal(rows, kernel_map.neighbours[:, order])
    assert (plan.rows[:, kernel_map.num_out:] == kernel_map.num_in).all()
    tiles = (plan.rows < kernel_map.num_in).view(9, -1, backend.ROWS).any(2).t()
    assert plan.counts.tolist() == tiles.sum(1).tolist() and len(tiles) > 2
    for live, count, tile in zip(plan.live, plan.counts.tolist(), tiles):
        assert live[:count].tolist() == tile.nonzero()[:, 0].tolist()
    unsorted = (kernel_map.neighbours < kernel_map.num_in)[:, :2 * backend.ROWS].view(9, -1, backend.ROWS).any(2)
    assert tiles[:2].sum() < unsorted.sum()
    ins, outs, counts = plan.pairs
    assert counts.tolist() == kernel_map.sizes
    for k, count in enumerate(kernel_map.sizes):
        assert torch.equal(ins[k, :count].long(), kernel_map.in_rows[k])
        assert torch.equal(outs[k, :count].long(), kernel_map.out_rows[k])
    check(kernel_map, torch.float32)


def test_a_plan_waits_for_nothing(waits):
    kernel_map = make_map((3, 1, 3), None, None, (1, 1, 1), grid=(9, 9, 4))
    backend._bits.cache_clear()
    with waits() as found:
        backend.Plan(kernel_map).pairs  # noqa: B018
    assert not found


def test_on_a_surface_the_order_of_rows_saves_products():
    """Voxels of a wavy street, two fifths of them seen, in tiles sorted by bare masks and by theirs as a Gray code."""
    generator = torch.Generator().manual_seed(0)
    place = (torch.rand(64, 64, generator=generator) < 0.4).nonzero()
    height = (6 + 3 * torch.sin(place[:, 0] / 5) + 2.5 * torch.cos(place[:, 1] / 4)).long()
    coords = torch.cat([torch.zeros_like(height)[:, None], place, height[:, None]], 1)
    kernel_map = VoxelSet(coords.to(DEVICE), (64, 64, 12), 1).subm_map((3, 3, 3), (1, 1, 1))
    there = kernel_map.neighbours < kernel_map.num_in
    order = (there * 2**torch.arange(27, device=DEVICE)[:, None]).sum(0).sort()[1]
    steps = sum(int(tile.any(1).sum()) for tile in there[:, order].split(backend.ROWS, 1))
    assert backend.Plan(kernel_map).counts.sum() < 0.9 * steps


def test_kernels_of_more_offsets_than_a_sorting_key_has_bits():
    check(make_map((7, 3, 3), None, None, (1, 1, 1), grid=(2, 2, 2)), torch.float32, 2, 3)


def test_results_repeat_bit_for_bit_and_pieces_are_summed_in_order(monkeypatch):
    monkeypatch.setattr(backend, 'PAIRS', 16)
    found = SimpleNamespace(**dict(vars(backend._device(torch.device(DEVICE))), processors=4))  # five pieces
    monkeypatch.setattr(backend, '_device', lambda device: found)
    kernel_map = make_map((1, 3, 1), None, None, (1, 1, 1), grid=(9, 9, 4))
    first, again = (check(kernel_map, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_maps_without_rows_or_pairs():
    for num_in, num_out, num_pairs in ((0, 0, 0), (3, 70, 0), (0, 3, 0), (3, 70, 3)):
        neighbours = torch.full((1, num_out), num_in, dtype=torch.int32, device=DEVICE)
        neighbours[0, :num_pairs] = torch.arange(num_pairs)
        kernel_map = KernelMap('strided', num_in, neighbours)
        x, weight, grad = operands(kernel_map, dtype=torch.float32)
        out = backend.forward(x, weight, kernel_map)
        grad_x, grad_weight = backend.backward(x, weight, kernel_map, grad, True, True)
        assert (out.shape, grad_x.shape, grad_weight.shape) == ((num_out, 20), x.shape, weight.shape)
        assert not out[num_pairs:].any() and bool(out.any()) == bool(grad_weight.any()) == bool(num_pairs)


def test_missing_neighbours_are_not_multiplied():
    kernel_map = make_map((1, 1, 3), None, None, (1, 1, 1), share=0.2)
    x, weight, _ = operands(kernel_map, dtype=torch.float32)
    x[-1] = float('nan')
    assert torch.equal(backend.forward(x, weight, kernel_map).isnan(), reference.forward(x, weight, kernel_map).isnan())


@pytest.mark.skipif(ON_GPU or not FLOAT64, reason='float64 is for the interpreter, of Triton 3.5 and later')
def test_numerical_gradients():
    set_backend('triton')
    try:
        kernel_map = make_map((1, 1, 2), (1, 1, 2), (0, 0, 0), (1, 1, 1), grid=(1, 1, 3), share=0.7)
        x, weight, _ = operands(kernel_map, 1, 2)
        assert torch.autograd.gradcheck(lambda *given: sparse_conv(*given, kernel_map),
                                        (x.requires_grad_(), weight.requires_grad_()))
    finally:
        set_backend('auto')


@pytest.mark.parametrize(('norm_first', 'slope'), [(True, 0.), (True, 1.), (False, 0.01)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_norm_and_activation_are_part_of_the_product_in_evaluation(norm_first, slope, dtype):
    kernel_map = make_map((1, 1, 3), None, None, (1, 1, 1), share=0.2)
    x, weight, _ = operands(kernel_map, 5, 20, dtype)
    generator = torch.Generator().manual_seed(2)
    conv, norm = torch.nn.Identity(), torch.nn.BatchNorm1d(20)
    for values in (*norm.parameters(), norm.running_mean, norm.running_var):
        values.data.copy_(torch.rand(20, generator=generator) + 0.1)
    finish = functional.Finish(norm.to(DEVICE).eval(), slope, norm_first)
    set_backend('triton')
    try:
        assert not functional.can_finish(x, conv, norm), 'its gradients are wanted'
        with torch.no_grad():
            assert functional.can_finish(x, conv, norm) and not functional.can_finish(x, conv, torch.nn.BatchNorm1d(20))
            found = sparse_conv(x, weight, kernel_map, finish=finish)
            for layer in (conv, norm):
                handle = layer.register_forward_hook(lambda *_: None)
                assert not functional.can_finish(x, conv, norm), 'somebody listens'
                handle.remove()
            assert not functional.can_finish(x, torch.nn.Linear(5, 20), norm), 'it has a bias'
            set_backend('torch')
            assert not functional.can_finish(x, conv, norm)
            norm.double()
            expected = finish(reference.forward(x.double(), weight.double(), kernel_map))
            plain = functional._run('forward_finished', x.double(), weight.double(), kernel_map, finish)
        assert found.dtype == dtype and torch.equal(plain, expected)
        assert (found.double() - expected).norm() <= BOUNDS[dtype] * expected.norm()
    finally:
        set_backend('auto')


def test_what_it_cannot_do_is_said(monkeypatch):
    kernel_map = make_map((1, 1, 1), None, None, (1, 1, 1))
    x, weight, _ = operands(kernel_map)
    with pytest.raises(ConfigError, match="algorithm 'pairs'"):
        backend.forward(x, weight, kernel_map, 'pairs')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    with pytest.raises(ConfigError, match='features on cpu'):
        backend.forward(x.cpu(), weight.cpu(), kernel_map)


def test_kernels_start_on_the_gpu_of_their_tensors(monkeypatch):
    """Which need not be the current one: `load(config, checkpoint, device='cuda:1')`."""
    events, x = [], torch.zeros(1)

    @contextmanager
    def device_of(tensor):
        events.append(tensor)
        yield
        events.append('left')

    monkeypatch.setattr(torch.cuda, 'device_of', device_of)
    launch.launch('a test', {(1,): lambda *args: events.append(args)}, (1,), x, 2)
    assert events == [x, (x, 2), 'left']


def test_a_program_that_does_not_compile_hands_over_to_the_next_backend(monkeypatch):
    functional._on_cuda.cache_clear()
    lines = []
    monkeypatch.setattr(functional, 'print_log', lambda text, *rest: lines.append(text))
    monkeypatch.setattr(functional, '_choose', lambda x, algorithm: next(
        one for one in functional._on_cuda() if one.serves(x)) if functional._backend is None else backend)
    monkeypatch.setattr(functional, 'ON_CUDA', ('triton', 'torch'))
    monkeypatch.setattr(backend, '_product', lambda x, *args: backend._launch({(1,): broken}, (1,), x))
    kernel_map = make_map((1, 1, 1), None, None, (1, 1, 1))
    x, weight, _ = operands(kernel_map, dtype=torch.float32)

    def broken(x):
        raise TritonError('no such instruction on sm_50')

    try:
        expected = reference.forward(x, weight, kernel_map)
        assert torch.equal(sparse_conv(x, weight, kernel_map), expected)
        assert torch.equal(sparse_conv(x, weight, kernel_map), expected)
        said = '\n'.join(lines)
        assert said.count('on CUDA: triton') == 1 and said.count('no such instruction on sm_50') == 1
        set_backend('triton')
        with pytest.raises(CannotCompile, match='sm_50'):
            sparse_conv(x, weight, kernel_map)
        monkeypatch.setattr(launch, '_recording', lambda: True)  # of a CUDA graph, which may forbid a launch
        with pytest.raises(TritonError, match='sm_50'):
            sparse_conv(x, weight, kernel_map)
    finally:
        set_backend('auto')
        functional._on_cuda.cache_clear()


def test_programs_compile_without_a_gpu():
    """At the sizes of full nets, with tensor cores and sums that stay in registers; in a process of its own, since this
    one interprets them.
    """
    env = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    run = subprocess.run([sys.executable, '-c', COMPILED], capture_output=True, text=True, timeout=120,
                         env=dict(env, PYTHONPATH=os.pathsep.join(sys.path)))
    assert run.returncode == 0, run.stderr[-2000:]
    made = [line.split() for line in run.stdout.splitlines()]
    assert len(made) == 5 + 3 * 2 and all(stack == 'STACK:0' for *_, stack in made)
    for device, name, precision, multiplies, _ in made:
        assert (multiplies != '-') == (int(device) >= 80), (device, name, precision)
        if name == 'product' and int(device) >= 80:
            assert multiplies.startswith('wgmma' if device == '90' else 'mma'), (device, multiplies)


COMPILED = '''
import re
import subprocess
import tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from perception.ops.sparse.backends.triton import _kernels
disassembler = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
whole = dict(PAIRS=32, ROWS=64, SIZE=256, MIRRORED=False, FINISH='norm', stride_channel=1)
cards = ((70, 'fp32', 'ieee', dict(WIDE=64, DEEP=32)), (80, 'fp16', 'ieee', dict(WIDE=128, DEEP=64)),
         (90, 'fp32', 'tf32x3', dict(WIDE=64, DEEP=32)), (120, 'bf16', 'ieee', dict(WIDE=128, DEEP=64)))
for device, dtype, precision, block in cards:
    kernels = dict(mask=dict.fromkeys(('neighbours', 'places'), 'i32') | dict(masks='i64'),
                   arrange=dict.fromkeys(('neighbours', 'order', 'rows', 'live', 'counts'), 'i32'),
                   pair=dict.fromkeys(('neighbours', 'ins', 'outs', 'counts'), 'i32'),
                   product=dict(x=dtype, weight=dtype, out=dtype, rows='i32', order='i32', live='i32', counts='i32',
                                **dict.fromkeys(('mean', 'variance', 'scale', 'shift'), 'fp32')),
                   weight_gradient=dict(x=dtype, grad=dtype, out='fp32', ins='i32', outs='i32', counts='i32'))
    for name, types in kernels.items():
        if device > 70 and name in ('mask', 'arrange', 'pair'):
            continue
        kernel = getattr(_kernels(), name)
        fixed = dict(whole, PRECISION=precision, **(block if name == 'product' else dict(WIDE=64, DEEP=64)))
        constants = {word: value for word, value in fixed.items() if word in kernel.arg_names}
        signature = {word: 'constexpr' if word in constants else '*' + types[word] if word in types
                     else 'fp32' if word in ('epsilon', 'slope') else 'i32'
                     for word in kernel.arg_names}
        multiples = {(kernel.arg_names.index(word),): [['tt.divisibility', 16]]
                     for word in (*types, 'channels', 'width', 'padded', 'stride_width', 'stride_offset')
                     if word in kernel.arg_names}
        made = triton.compile(ASTSource(kernel, signature, constants, multiples), target=GPUTarget('cuda', device, 32),
                              options=dict(num_warps=4, num_stages=7 if name == 'product' else 5))
        with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
            file.write(made.asm['cubin'])
            file.flush()
            used = subprocess.run([disassembler, '-res-usage', file.name], capture_output=True,
                                  text=True, check=True).stdout
        multiplies = re.findall(r'(?:wg)?mma\\S*sync\\S*', made.asm['ptx'])
        print(device, name, precision, (multiplies or ['-'])[-1], re.search(r'STACK:[0-9]+', used)[0])
'''
