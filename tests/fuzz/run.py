"""Mutate files guided by coverage, with atheris: `make fuzz`.

    PYTHONPATH=tests python tests/fuzz/run.py SECONDS [TARGET ...]

Each target, by default all of helpers.fuzzing.targets(), gets SECONDS. Its corpus is .fuzz/TARGET: the seeds, and what
libFuzzer adds. A file that is a bug, takes more than 5 seconds or 4 GiB is left as .fuzz/TARGET-*, and the exit status
is 1.
"""

import subprocess
import sys
from pathlib import Path

CORPUS = Path(".fuzz")
LIMITS = ["-timeout=5", "-rss_limit_mb=4096", "-max_len=200000", "-print_final_stats=0", "-close_fd_mask=1"]


def fuzz(name: str, options: list[str]) -> None:
    """Fuzz one target; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["lesioncli"]):
        from helpers.fuzzing import check, targets

        from lesioncli.process import quiet_decoders

    target, corpus = targets()[name], CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number:03d}").write_bytes(seed)
    quiet_decoders()
    arguments = [sys.argv[0], *LIMITS, *options, f"-artifact_prefix={corpus}-", str(corpus)]
    atheris.Setup(arguments, lambda data: check(target, data))
    atheris.Fuzz()


def main() -> None:
    seconds, *names = sys.argv[1:]
    if not names:
        from helpers.fuzzing import targets

        names = sorted(targets())
    failed = []
    for name in names:
        print(f"{name}: {seconds} s", flush=True)
        command = [sys.executable, __file__, "--one", name, f"-max_total_time={seconds}"]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        fuzz(sys.argv[2], sys.argv[3:])
    else:
        main()
