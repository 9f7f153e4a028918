"""DICOM files from segment to report: every file is one row, and nothing of the patient is in any of the outputs."""

from pathlib import Path

from helpers.command import call
from helpers.dicom_files import SECRETS, dicom
from helpers.pictures import read
from helpers.runs import rows_of
from PIL import Image

from lesioncli.demo.draw import draw_case
from lesioncli.errors import ExitCode

HEIGHT, WIDTH = 96, 128
NAMES = ("1.2.840.99.1", "1.2.840.99.2", "IM0001", "x.dcm")


def test_a_folder_of_dicom_files(here: Path) -> None:
    images, truths = here / "images", here / "labels"
    images.mkdir()
    truths.mkdir()
    for seed, name in enumerate(NAMES):
        case = draw_case(seed, HEIGHT, WIDTH)
        (images / name).write_bytes(dicom(case.image.tobytes(), Rows=HEIGHT, Columns=WIDTH))
        Image.fromarray(case.mask).convert("L").point(lambda level: 255 * (level > 0)).save(
            truths / f"{name.removesuffix('.dcm')}.png"
        )
    (images / "broken").write_bytes(dicom(b"secret", "1.2.3.4.5"))
    (images / "README").write_text("no image" * 99)
    segmented = call("segment", images, "--out", "masks", "--overlay")
    assert segmented.exit_code == ExitCode.SOME_FAILED
    rows = rows_of(here / "masks")
    assert {name: row["status"] for name, row in rows.items()} == {**dict.fromkeys(NAMES, "ok"), "broken": "failed"}
    assert rows["1.2.840.99.1"]["mask"] == "1.2.840.99.1.png"
    assert read(here / "masks" / "1.2.840.99.1.png").shape == (HEIGHT, WIDTH)
    evaluated = call("evaluate", "--gt", truths)
    assert evaluated.exit_code == ExitCode.OK, evaluated.stderr
    reported = call("report", "--gt", truths, "--out", "report.html")
    again = call("segment", images, "--out", "masks", "--json")
    assert '"skipped": 4' in again.stdout
    texts = [done.stdout + done.stderr for done in (segmented, evaluated, reported, again)]
    outputs = [path.read_bytes() for path in (*(here / "masks").rglob("*"), here / "report.html") if path.is_file()]
    assert len(outputs) > len(NAMES)
    for secret in SECRETS:
        assert not any(secret in text for text in texts)
        assert not any(secret.encode() in output for output in outputs)
    assert "1.2.840.99.1" in (here / "report.html").read_text(encoding="utf-8")
