#!/bin/sh
# Test lesioncli on the NVIDIA GPU of this machine and measure it, without a network.
#
#     ./run.sh [RESULTS]           figures.txt, figures.json and log.txt are written to the folder RESULTS
#     ./run.sh --standin [RESULTS] try the pack itself without a GPU, over a stand-in for the driver; pip then needs the
#                                  wheels of the CUDA headers, from the network or in PIP_FIND_LINKS
#
# Needs Linux on x86-64, Python 3.12 with venv (another command: PYTHON=...), torch, numpy, g++, and for a GPU a CUDA toolkit.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
standin=
if [ "${1:-}" = --standin ]; then standin=--standin; shift; fi
mkdir -p "${1:-results}"
results=$(cd "${1:-results}" && pwd)
python=${PYTHON:-python3}
stop() { echo "error: $1" >&2; exit 4; }

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' ||
    stop "$python is not Python 3.12, which the wheels are for; name one: PYTHON=python3.12 ./run.sh"
packages=$("$python" -c 'import numpy, pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])') ||
    stop "$python lacks torch or numpy; name a Python that has: PYTHON=... ./run.sh"
command -v c++ >/dev/null || stop "no C++ compiler (c++), which pycuda is compiled with"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="data")' \
    "$here/pack.tar.xz" "$work"
if [ ! "$standin" ]; then
    problem=$(cd "$work/source" && "$python" -c 'from lesioncli.backends.tensorrt.driver import find_gpus
print(find_gpus().problem)')
    [ ! "$problem" ] || stop "$problem; run this on a machine with an NVIDIA GPU"
    PATH=$PATH:/usr/local/cuda/bin
    nvcc=$(command -v nvcc) || stop "no nvcc on the path or in /usr/local/cuda; pycuda needs the headers of CUDA"
fi

"$python" -m venv --system-site-packages "$work/venv"
venv="$work/venv/bin/python"
echo "$packages" >"$("$venv" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"
export PIP_NO_INDEX=1 PIP_FIND_LINKS="$work/wheels ${PIP_FIND_LINKS:-}" PIP_DISABLE_PIP_VERSION_CHECK=1
"$venv" -m pip install --quiet deflate filelock mako msgspec opencv-python-headless pillow platformdirs pytest \
    pytools rich safetensors setuptools simplejpeg typer wheel

if [ "$standin" ]; then
    export PIP_NO_BUILD_ISOLATION=0 # this 0 switches the isolation off
    (cd "$work/source/tests" && "$venv" -m cuda_standin.install)
else
    tar -xf "$work"/wheels/pycuda-*.tar.gz -C "$work"
    # The link needs libcuda.so: in the toolkit as a stub, or only libcuda.so.1 beside the driver.
    cuda=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
    mkdir "$work/driver"
    driver=$(ldconfig -p | sed -n 's/.*libcuda\.so\.1 .*x86-64.*=> //p' | head -n 1)
    [ ! "$driver" ] || ln -s "$driver" "$work/driver/libcuda.so"
    cat >"$(echo "$work"/pycuda-*/)siteconf.py" <<SETTINGS
CUDA_ENABLE_CURAND = False
CUDA_ROOT = "$cuda"
CUDA_INC_DIR = ["$cuda/include"]
CUDADRV_LIB_DIR = ["$work/driver", "$cuda/lib64/stubs"]
CXXFLAGS = ["-O1", "-g0", "-w"]
LDFLAGS = []
SETTINGS
    "$venv" -m pip install --quiet --no-build-isolation "$work"/pycuda-*/
fi

cd "$work/source"
status=0
PYTHONPATH="$work/source" "$venv" -m pytest -m gpu tests/gpu $standin --figures "$results" -W default \
    -p no:cacheprovider >"$results/log.txt" 2>&1 || status=$?
cat "$results/log.txt"
echo "written to $results: $(cd "$results" && echo *)"
exit $status
