"""Build a pycuda on the CUDA stand-in: `python -m cuda_standin.install` in tests/, as `make test` does.

PyPI has only the source of pycuda. It is compiled against the headers of one CUDA release, even if a toolkit is
installed, because they decide which functions an extension is linked to. Everything is in one folder of the virtual
environment, and pip does not cache the wheel: a later `pip install pycuda` must not get this one.
"""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from cuda_standin import HOME, SUPPORTED, compile_driver

PYCUDA = "pycuda==2026.1"
HEADERS = ("nvidia-cuda-runtime==13.0.*", "nvidia-cuda-profiler-api==13.0.*")
SETTINGS = """\
CUDA_ENABLE_CURAND = False
CUDA_INC_DIR = [{headers!r}]
CUDADRV_LIB_DIR = [{libraries!r}]
CXXFLAGS = ["-O1", "-g0", "-w"]
LDFLAGS = []
"""


def pip(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words], check=True)


def install(folder: Path) -> None:
    """Build in `folder`, and install the result in HOME."""
    pip("install", "--no-deps", "--target", folder / "headers", *HEADERS)
    pip("download", "--no-deps", "--no-binary", "pycuda", "--dest", folder, PYCUDA)
    with tarfile.open(next(folder.glob("pycuda-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    source = next(path for path in folder.glob("pycuda-*") if path.is_dir())
    (folder / "libcuda.so").symlink_to(compile_driver(HOME / "driver"))
    (header,) = (folder / "headers").rglob("cuda.h")
    settings = SETTINGS.format(headers=str(header.parent), libraries=str(folder))
    (source / "siteconf.py").write_text(settings)
    pip("install", "--no-cache-dir", "--no-deps", "--upgrade", "--target", HOME, source)


if __name__ == "__main__":
    if not SUPPORTED:
        sys.exit("the CUDA stand-in is for Linux on x86-64")
    if missing := [name for name in ("cc", "c++") if not shutil.which(name)]:
        sys.exit(f"{' and '.join(missing)} not found: the CUDA stand-in needs compilers of C and C++ (build-essential)")
    with TemporaryDirectory() as folder:
        install(Path(folder))
