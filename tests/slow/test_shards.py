"""Shards that find no engine: one of them builds it."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import call
from helpers.pictures import save_many

from lesioncli.errors import ExitCode

pytestmark = pytest.mark.slow


def test_an_engine_is_built_by_one_of_several_processes(tmp_path: Path) -> None:
    """Both start without an engine; the second waits for the first, then uses its engine."""
    save_many(tmp_path / "images", 2)
    code = (
        "import sys; from lesioncli import engines, __main__\n"
        "build = engines.build_engine\n"
        "def counted(*arguments, **options):\n    print('BUILD', flush=True); return build(*arguments, **options)\n"
        "engines.build_engine = counted; __main__.main()"
    )

    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, "segment", "images", "--out", "masks", "--shard", f"{index}/2"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in (1, 2)
    ]
    outputs = [program.communicate(timeout=200)[0] for program in programs]
    assert [program.returncode for program in programs] == [0, 0], outputs
    assert "".join(outputs).count("BUILD") == 1, outputs
    assert not list((tmp_path / "engines").glob(".*"))
    assert call("merge", tmp_path / "masks").exit_code == ExitCode.OK
