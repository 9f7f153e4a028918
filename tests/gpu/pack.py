"""Write a folder for a borrowed machine without a network: `make gpu-pack`.

    python pack.py FOLDER

The machine has Linux on x86-64, Python 3.12, a CUDA toolkit, torch and numpy. The folder has run.sh and one archive:
the sources, the tests of this folder, the wheels that they need, and the source of pycuda. Wheels are stored without
their own compression, because the archive compresses them better as a whole. Left out for their size: OpenVINO (the
masks are compared with those of torch on the CPU), TensorRT, and numpy.
"""

import lzma
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
MAX_MIB = 60
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
PYCUDA = "pycuda==2026.1"
WHEELS = (
    "deflate",
    "filelock>=4",
    "mako",
    "msgspec",
    "opencv-python-headless==4.11.0.86",  # later ones are 10 MB larger
    "pillow",
    "platformdirs",
    "pytest",
    "pytools",
    "rich",
    "safetensors",
    "setuptools",
    "simplejpeg",
    "typer",
    "wheel",
)
RECIPES = (path.relative_to(ROOT).as_posix() for path in (ROOT / "engines").glob("*.toml"))  # no engines built here
SOURCES = ("pyproject.toml", "LICENSE", "lesioncli", *RECIPES, "tests/gpu", "tests/helpers", "tests/cuda_standin")
OTHER_WEIGHTS = ROOT / "lesioncli" / "pretrained" / "mbdcnn-lite.safetensors"
FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6}]


def main(folder: Path) -> None:
    if folder.exists() and not (folder / "run.sh").is_file() and any(folder.iterdir()):
        sys.exit(f"{folder}: is not empty and not a pack; choose another folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with TemporaryDirectory() as name:
        work = Path(name)
        download(work / "wheels")
        copy_sources(work / "source")
        write_archive(work, folder / "pack.tar.xz")
    run = folder / "run.sh"
    shutil.copyfile(Path(__file__).with_name("run.sh"), run)
    run.chmod(0o755)
    mib = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    print(f"{folder}: {mib:.1f} MiB; copy it to the machine with the GPU and run {run.name} there")
    if mib > MAX_MIB:
        sys.exit(f"{folder}: more than {MAX_MIB} MiB")


def download(folder: Path) -> None:
    """Download the wheels for the other machine, and the source of pycuda, which has no wheels."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*pip, "--only-binary", ":all:", "--python-version", PYTHON, *platforms, *WHEELS], check=True)
    for numpy in folder.glob("numpy-*.whl"):
        numpy.unlink()
    subprocess.run([*pip, "--no-deps", "--no-binary", "pycuda", PYCUDA], check=True)
    for wheel in folder.glob("*.whl"):
        store(wheel)


def store(wheel: Path) -> None:
    """Write a wheel again without compression."""
    stored = wheel.with_suffix(".stored")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as target:
        for member in source.infolist():
            copy = zipfile.ZipInfo(member.filename, member.date_time)
            copy.external_attr = member.external_attr
            target.writestr(copy, source.read(member))
    stored.replace(wheel)


def copy_sources(folder: Path) -> None:
    """Copy the program and its GPU tests, without the other model and the tests that need OpenVINO."""
    ignored = shutil.ignore_patterns("__pycache__", OTHER_WEIGHTS.name, "test_tensorrt.py")
    for name in SOURCES:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignored)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def write_archive(folder: Path, path: Path) -> None:
    with lzma.open(path, "wb", filters=FILTERS) as compressed, tarfile.open(fileobj=compressed, mode="w|") as archive:
        for part in sorted(folder.iterdir()):
            archive.add(part, part.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
