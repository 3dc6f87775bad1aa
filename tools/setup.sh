#!/usr/bin/env bash
# Makes .venv with everything the project needs; a second run changes nothing and reaches no network.
#   PYTHON=python3.11    interpreter to build .venv from
#   TORCH_INDEX=URL      package index for torch alone, such as the CPU wheel index on a machine without a GPU
#   OPS=1                mmcv with its CPU operators, built from source, and all that mmdet3d's own models need
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv
python="$venv/bin/python"
stamp="$venv/perception-setup.sha"
log="$venv/setup.log"
want=$({ pwd; cat setup.py tools/setup.sh tools/constraints.txt; } | sha256sum | cut -d' ' -f1)
ops=
[ "${OPS:-0}" = 0 ] || ops=' with operators'
if [ -x "$python" ]; then
    # operators are kept by a plain run, so what they complete is complete without asking for them too
    case "$(cat "$stamp" 2>/dev/null)" in
        "$want$ops" | "$want with operators") echo "setup: $venv is complete, nothing to do"; exit 0 ;;
    esac
fi

say() { printf 'setup: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }
trap 'kill $(jobs -p) 2>/dev/null || true; say "interrupted; make setup continues where it was" >&2; exit 130' INT TERM
# byte-compiling everything takes longer than unpacking it, and 0.3 GB: step 6 compiles what is used, whoever forbids it
unset PYTHONDONTWRITEBYTECODE
pip() { "$python" -m pip --disable-pip-version-check --no-input "$@" >>"$log" 2>&1; }
install() {
    pip install --progress-bar off --no-compile --constraint tools/constraints.txt "$@" && return
    die "pip install $* failed ($(grep -E '^ *(ERROR|error):' "$log" | tail -1 || true)), expected every package" \
        "to be available. See $log, then run make setup again"
}

# 1. The virtual environment.
version_of() { "$1" -c 'import sys; print(".".join(map(str, sys.version_info[:3])))' 2>/dev/null; }
known() {
    case "$1" in
        3.10.* | 3.11.* | 3.12.* | 3.13.*) ;;
        *) die "Python $1 found, expected 3.10 to 3.13. Run \`$2make setup PYTHON=python3.11\`" ;;
    esac
}
if [ ! -e "$python" ] && [ ! -L "$python" ]; then
    base=${PYTHON:-python3}
    version=$(version_of "$base") ||
        die "$base does not run, expected Python 3.10 to 3.13. Run \`make setup PYTHON=python3.11\`"
    known "$version" ''
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$base has no venv, expected Python with it. Run \`sudo apt-get install python${version%.*}-venv\`"
    say "making $venv"
    "$base" -m venv --without-pip "$venv"
fi
version=$(version_of "$python") ||
    die "$python does not run (its Python is gone?), expected a whole environment. Run \`rm -r $venv; make setup\`"
known "$version" "rm -r $venv; "
case "$version$ops" in
    3.13.*operators) die "OPS=1 came with Python $version, expected 3.10 to 3.12: what mmdet3d's own models require asks" \
        "for NumPy 1. Run \`rm -r $venv; make setup OPS=1 PYTHON=python3.11\`" ;;
esac
rm -f "$stamp"
: >"$log"
pip --version || "$python" -m ensurepip --default-pip >>"$log" 2>&1 ||
    die "$python has no pip and cannot get it, expected a whole environment. Run \`rm -r $venv; make setup\`"

# 2. Shared libraries that Open3D loads: libusb at import, Vulkan to draw without a display.
debian() {
    local root=()
    [ $# -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || root=(sudo -n)
    { command -v apt-get && "${root[@]}" true; } >/dev/null 2>&1 ||
        die "Debian packages are missing and need an administrator: sudo apt-get install $* (then run make setup again)"
    say "installing Debian packages $*"
    { "${root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq "$@"; } \
        >>"$log" 2>&1 || die "apt-get install $* failed, expected it to work. See $log, then run make setup again"
}
packages=()
libraries=$(ldconfig -p 2>/dev/null || true)
for need in libusb-1.0.so.0:libusb-1.0-0 libvulkan.so.1:libvulkan1 libgomp.so.1:libgomp1 libGL.so.1:libgl1 \
    libglib-2.0.so.0:libglib2.0-0; do
    [[ $libraries == *"${need%%:*} "* ]] || packages+=("${need##*:}")
done
compgen -G '/usr/share/vulkan/icd.d/*' >/dev/null || packages+=(mesa-vulkan-drivers)
debian "${packages[@]}"

# 3. A new pip, twice as fast as an old one, and torch, first so that no later step replaces it.
install --upgrade pip wheel 'setuptools<81'
say "installing torch"
install torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}

# 4. The project and its requirements. spconv is a peer for benchmarks and tests, never a requirement. Triton (a wheel of
#    0.2 GB, 1 GB unpacked) comes with torch's builds for CUDA and in the version that they want; elsewhere any version
#    tests the kernels in its interpreter.
say "installing perception and its requirements"
install --no-build-isolation --editable '.[gan,nuscenes,onnx,points,prune,steering,test]'
case "$version" in 3.13.*)  # nuscenes-devkit asks for NumPy 1, which 3.13 does not have, and works with 2
    install --no-deps nuscenes-devkit
    install cachetools descartes pyquaternion scikit-learn shapely ;;
esac
(install spconv) 2>/dev/null || say "spconv is not to be had here; its comparison is skipped"
(install triton) 2>/dev/null || say "triton is not to be had here; its kernels are not tested"

# 5. OpenMMLab's packages without their requirements: of mmdet3d and mmdet the registries alone are imported, which need
#    no more than mmengine does; numba, TensorBoard, scikit-image, Lyft's kit ... are 0.4 GB for models that nothing
#    here uses (`pip check` lists them as missing). mmcv-lite is mmcv without operators, in the same folder: where there
#    is an mmcv that fits, it stays.
mmcv_fits() {
    "$python" -c 'import mmcv; from mmengine.utils import digit_version as v
assert v("2.0.0rc4") <= v(mmcv.__version__) < v("2.2.0")' 2>/dev/null
}
has_operators() { "$python" -c 'import torch, mmcv._ext' 2>/dev/null; }
if mmcv_fits; then
    install --no-deps mmdet mmdet3d
else
    pip uninstall --yes mmcv mmcv-lite
    install --no-deps mmcv-lite mmdet mmdet3d
fi
if [ -n "$ops" ]; then
    if ! has_operators; then
        packages=()
        command -v c++ >/dev/null || packages+=(build-essential)
        [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ||
            packages+=("python${version%.*}-dev")
        debian "${packages[@]}"
        install ninja
        # pip keeps the wheel, so this happens once a machine; one built for another torch is built again
        for again in '' --no-cache-dir; do
            say "building mmcv with its CPU operators (10 to 30 minutes the first time)"
            rm -rf "$venv/wheels"
            # the GPU is hidden, so no nvcc is needed; without debug information, which is half of the work
            CUDA_VISIBLE_DEVICES= MMCV_WITH_OPS=1 FORCE_CUDA=0 CFLAGS="-g0 ${CFLAGS:-}" pip wheel --no-deps \
                --no-build-isolation $again --constraint tools/constraints.txt --wheel-dir "$venv/wheels" mmcv ||
                die "mmcv could not be built, expected a C++ compiler and Python's headers. See $log, then run make" \
                    "setup OPS=1 again"
            pip uninstall --yes mmcv mmcv-lite
            install --no-deps --force-reinstall "$venv"/wheels/mmcv-*.whl
            rm -rf "$venv/wheels"
            ! has_operators || break
        done
        has_operators ||
            die "mmcv has no operators after its build, expected them. See $log, then run make setup OPS=1 again"
    fi
    say "installing the requirements of mmdet3d's own models"
    install --no-build-isolation --editable '.[mmdet3d]'
fi

# 6. All that is used imports, the package's own modules too; this compiles it, in two processes.
say "checking that everything imports"
check() { "$python" -W ignore -c "$1" >>"$log" 2>&1; }
check 'from perception.registry import MODELS; MODELS.import_from_location()' & first=$!
check 'import open3d, nuscenes.eval.lidarseg.evaluate, onnxscript, onnxruntime, pytest, xdist.plugin' & second=$!
{ wait $first && wait $second; } ||
    die "a package cannot be imported ($(tail -1 "$log")), expected all to work. Run \`rm -r $venv; make setup\`"
echo "$want$ops" >"$stamp"
say "complete"
