"""Installs the package in place; `make setup` does this and everything around it."""
from setuptools import find_packages, setup

setup(
    name='perception',
    version='0.1.0',
    description='LiDAR, lane, crowd, BEV and steering perception with the distillation methods of their papers',
    license='Apache-2.0',
    packages=find_packages(include=['perception', 'perception.*']),
    python_requires='>=3.10,<3.13',
    install_requires=[
        'torch>=2.6',
        'numpy>=1.24,<2',
        'scipy',
        'mmengine>=0.10.4',
        'mmcv>=2.0.0rc4,<2.2.0',
        'mmdet>=3.0.0,<3.4.0',
        'mmdet3d>=1.4.0',
        'nuscenes-devkit>=1.1.11',
        'open3d>=0.20',
        'opencv-python',
        'pillow',
        'tqdm',
    ],
    extras_require={
        'test': ['pytest', 'pytest-xdist', 'ruff'],
        'onnx': ['onnx>=1.16', 'onnxscript>=0.3', 'onnxruntime>=1.18'],
        'spconv': ['spconv>=2.3.6'],
        'triton': ['triton>=3.0'],
    },
)
