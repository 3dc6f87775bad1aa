#!/usr/bin/env bash
# Makes .venv with everything the project needs; a second run changes nothing and reaches no network.
#   PYTHON=python3.11    interpreter to build .venv from
#   TORCH_INDEX=URL      package index for torch alone, such as the CPU wheel index on a machine without a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv
python="$venv/bin/python"
stamp="$venv/perception-setup.sha"
want=$(cat setup.py tools/setup.sh tools/constraints.txt | sha256sum | cut -d' ' -f1)
if [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    echo "setup: $venv is complete, nothing to do"
    exit 0
fi

say() { printf 'setup: %s\n' "$*"; }
pip() { "$python" -m pip --disable-pip-version-check install --quiet --constraint tools/constraints.txt "$@"; }

# 1. Shared libraries that Open3D loads: libusb at import, Vulkan to draw without a display.
packages=()
for need in libusb-1.0.so.0:libusb-1.0-0 libvulkan.so.1:libvulkan1 libgomp.so.1:libgomp1 libGL.so.1:libgl1 libglib-2.0.so.0:libglib2.0-0; do
    ldconfig -p 2>/dev/null | grep -q "${need%%:*}" || packages+=("${need##*:}")
done
compgen -G '/usr/share/vulkan/icd.d/*' >/dev/null || packages+=(mesa-vulkan-drivers)
command -v c++ >/dev/null || packages+=(build-essential python3-dev)
if [ ${#packages[@]} -gt 0 ]; then
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo -n)
    if command -v apt-get >/dev/null && "${root[@]}" true 2>/dev/null; then
        say "installing Debian packages ${packages[*]}"
        "${root[@]}" apt-get update -qq
        DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq "${packages[@]}" >/dev/null
    else
        say "Debian packages are missing and need an administrator: sudo apt-get install ${packages[*]} (then run make setup again)" >&2
        exit 1
    fi
fi

# 2. The virtual environment, torch first so that no later step replaces it.
[ -x "$python" ] || { say "making $venv"; "${PYTHON:-python3}" -m venv "$venv"; }
"$python" - <<'PY' || exit 1
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f'setup: Python {sys.version.split()[0]} found, expected 3.10 to 3.12. Run `rm -r .venv; make setup PYTHON=python3.11`.')
PY
say "installing torch"
pip wheel ninja 'setuptools<81'
pip torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}

# 3. mmcv from source with its CPU operators; pip keeps the wheel, so this happens once a machine. The GPU is hidden, no nvcc needed.
mmcv_works() { "$python" -c 'import torch, mmcv._ext' 2>/dev/null; }
build_mmcv() { CUDA_VISIBLE_DEVICES= MMCV_WITH_OPS=1 FORCE_CUDA=0 pip --no-build-isolation "$@" mmcv; }
if ! mmcv_works; then
    say "building mmcv with its CPU operators (about 10 minutes the first time)"
    build_mmcv
    # a kept wheel may have been built without operators or for another torch
    mmcv_works || build_mmcv --no-cache-dir --force-reinstall --no-deps
    mmcv_works || { say "mmcv has no operators after its build; the command to see why: CUDA_VISIBLE_DEVICES= MMCV_WITH_OPS=1 $python -m pip install -v --no-build-isolation --no-cache-dir --force-reinstall --no-deps mmcv==2.1.0" >&2; exit 1; }
fi

# 4. The project and the rest of its requirements. spconv is a peer for benchmarks and tests, never a requirement.
say "installing perception and its requirements"
pip --no-build-isolation --editable '.[test,onnx]'
pip spconv || say "spconv is not to be had here; its comparison is skipped"
echo "$want" > "$stamp"
say "complete"
