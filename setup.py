"""Installs the package in place; `make setup` does this and everything around it.

mmcv, mmdet and mmdet3d are not listed, though `perception.registry` imports mmdet3d and that imports the others: pip
cannot say "mmcv or mmcv-lite", and mmdet3d listed here would bring 0.4 GB for models that nothing here uses. The
registry names the one command that brings what is missing; `pip install -e .[mmdet3d]` brings mmdet3d whole.
"""
from setuptools import find_packages, setup

setup(
    name='perception',
    version='0.1.0',
    description='LiDAR, lane, crowd, BEV and steering perception with the distillation methods of their papers',
    license='Apache-2.0',
    packages=find_packages(include=['perception', 'perception.*']),
    python_requires='>=3.10,<3.14',
    install_requires=[
        'torch>=2.7',
        'numpy>=1.24',
        'scipy',
        'mmengine>=0.10.4',
        'open3d>=0.20',
        'opencv-python',
        'pillow',
        'imageio-ffmpeg>=0.5',
        'matplotlib>=3.7',
        'tqdm',
    ],
    extras_require={
        'points': ['pypcd4>=1.4', 'plyfile>=1.0', 'laspy[lazrs]>=2.4', 'rosbags>=0.10'],
        # it asks for NumPy 1, which Python 3.13 does not have; there `make setup` brings it without its requirements
        'nuscenes': ['nuscenes-devkit>=1.1.11; python_version < "3.13"', 'shapely>=2.0'],
        'heic': ['pillow-heif'],
        'steering': ['h5py>=3.8', 'rosbags>=0.10'],  # Comma.ai's files; bags of Udacity's challenge
        'gan': ['lmdb>=1.4', 'scikit-learn'],  # images in LMDB; real digits
        'medical': ['scikit-learn'],  # t-SNE
        'onnx': ['onnx>=1.16', 'onnxscript>=0.3', 'onnxruntime>=1.18'],
        'prune': ['torch-pruning>=1.6', 'scikit-learn'],  # channel groups; real digits to try it on
        'rerun': ['rerun-sdk>=0.23', 'pyarrow<21; python_version < "3.13"'],  # later ones want NumPy 2
        'shapely': ['shapely>=2.0'],  # to measure beside it
        'spconv': ['spconv>=2.3.6'],
        'triton': ['triton>=3.3; sys_platform == "linux"'],  # torch's builds for CUDA bring theirs
        'mmdet3d': ['mmdet>=3.0.0,<3.4.0', 'mmdet3d>=1.4.0,<2.0.0'],
        'tensorboard': ['tensorboard'],
        'wandb': ['wandb'],
        'mlflow': ['mlflow'],
        'test': ['pytest', 'pytest-xdist', 'ruff'],
    },
)
