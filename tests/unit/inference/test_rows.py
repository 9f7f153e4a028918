"""The tables of an output folder: rows come back as they were written, and what is damaged is left out or named."""

from itertools import accumulate
from pathlib import Path

import pytest

from lesioncli.errors import InputError
from lesioncli.inference.outcome import LATER_COLUMNS, output_columns
from lesioncli.inference.record import MaskNames
from lesioncli.inference.rows import (
    CHECK_COLUMNS,
    GONE,
    UNKNOWN,
    Checks,
    Row,
    RowTables,
    WrongColumnsError,
    csv_line,
    read_names,
    row_key,
)

# The last of these are in the alphabet before the columns that a journal adds.
NAMES = [column.name for column in output_columns(["nevus"], ["a", "b", "c", "d"])]
EARLY_NAMES = [name for name in NAMES if name not in LATER_COLUMNS]


@pytest.fixture
def tables(tmp_path: Path) -> RowTables:
    return RowTables(tmp_path, NAMES)


def cells(image: str, names: list[str] = NAMES, /, **given: str) -> list[str]:
    """Return the cells of a row that is ok."""
    row = {"image": f"{image}.jpg", "mask": f"{image}.png", "width": "3", "height": "2", "bytes": "7", "status": "ok"}
    return [(row | given).get(name, "") for name in names]


def write(path: Path, *lines: list[str]) -> None:
    path.write_bytes("".join(map(csv_line, lines)).encode())


def write_scores(tables: RowTables, *images: str) -> None:
    write(tables.scores, NAMES, *map(cells, images))


def write_checks(tables: RowTables, *lines: list[str]) -> None:
    write(tables.checksums, ["image", *CHECK_COLUMNS], *lines)


def read_one(tables: RowTables, **given: str) -> Row:
    write(tables.scores, NAMES, cells("a", **given))
    (row,) = tables.read_scores()
    return row


def journal_line(tables: RowTables, image: str, checks: Checks = UNKNOWN, synced: int = 0) -> str:
    write_scores(tables, image)
    (row,) = tables.read_scores()
    return tables.journal_line(row._replace(checks=checks), synced)


def test_columns_of_each_table(tables: RowTables, tmp_path: Path) -> None:
    for path, header in [
        (tables.journal, tables.journal_header()),
        (tables.journal, csv_line(NAMES)),  # of an early version
        (tables.journal, csv_line(EARLY_NAMES)),
        (tables.scores, csv_line(NAMES)),  # read before the journal
        (tables.scores, csv_line(EARLY_NAMES)),
    ]:
        path.write_bytes(header.encode())
        assert read_names(tmp_path) == (NAMES if "area_px" in header else EARLY_NAMES)


def test_a_folder_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path / 'scores.csv'}: no such file"):
        read_names(tmp_path)
    for content in (b"", b"image,mask\r\n"):
        (tmp_path / "scores.csv").write_bytes(content)
        with pytest.raises(InputError, match=f"{tmp_path / 'scores.csv'}: has no column .*width"):
            read_names(tmp_path)


@pytest.mark.parametrize(
    "header",
    [NAMES[:-1], [*NAMES, "x"], [*NAMES[:-1], "aaa"], [*NAMES[:-1], "zzz"], ["aaa", *NAMES[1:]], ["zzz", *NAMES[1:]]],
    ids=["one less", "one more", "last before", "last behind", "first before", "first behind"],
)
def test_other_columns_are_refused(tables: RowTables, header: list[str]) -> None:
    write(tables.scores, header)
    with pytest.raises(WrongColumnsError, match=r"scores\.csv"):
        list(tables.read_scores())
    write(tables.journal, header)
    with pytest.raises(WrongColumnsError, match=r"scores\.csv\.part"):
        list(tables.read_journal())


def test_rows_of_an_early_version_have_empty_cells(tables: RowTables) -> None:
    for path in (tables.scores, tables.journal):
        write(path, EARLY_NAMES, cells("a", EARLY_NAMES, note="n"))
    (row,) = tables.read_scores()
    assert row.line == csv_line(cells("a", note="n"))
    assert list(tables.read_journal()) == [(row, False)]


@pytest.mark.parametrize("extra", [["a", "b", "c", "d"], ["w", "x", "y", "z"]])
def test_a_journal_of_an_early_version(tmp_path: Path, extra: list[str]) -> None:
    """The five last columns tell it from others; none is missing, whatever they are called."""
    names = [column.name for column in output_columns(["nevus"], extra)]
    tables = RowTables(tmp_path, names)
    write(tables.journal, names, cells("a", names))
    assert read_names(tmp_path) == names
    assert [row.image for row, _ in tables.read_journal()] == ["a.jpg"]


def test_a_header_that_a_power_cut_left_as_zeros(tables: RowTables) -> None:
    """The lines behind it need their checksums as always."""
    lines = journal_line(tables, "a") + csv_line(cells("b"))
    tables.journal.write_bytes(bytes(len(tables.journal_header()) - 1) + b"\n" + lines.encode())
    assert [row.image for row, _ in tables.read_journal()] == ["a.jpg"]


@pytest.mark.parametrize("fields", [[], cells("b")[:-1], [*cells("b"), "7"]], ids=["none", "one less", "one more"])
def test_a_line_with_another_number_of_fields(tables: RowTables, fields: list[str]) -> None:
    """In scores.csv, it is named; in the journal of an early version, which has no checksums, it is left out."""
    for path in (tables.scores, tables.journal):
        write(path, NAMES, cells("a"), fields, cells("c"))
    with pytest.raises(InputError, match=rf"scores\.csv, line 3: {len(fields)} fields"):
        list(tables.read_scores())
    assert [row.image for row, _ in tables.read_journal()] == ["a.jpg", "c.jpg"]


@pytest.mark.parametrize("check", ["00000000", "ffffffff", "", None], ids=["less", "more", "empty", "no checks"])
def test_a_damaged_line_of_a_journal_is_left_out(tables: RowTables, check: str | None) -> None:
    first, damaged, last = (journal_line(tables, image) for image in "abc")
    damaged = csv_line(cells("b")) if check is None else damaged[:-10] + check + "\r\n"
    tables.journal.write_bytes("".join([tables.journal_header(), first, damaged, last]).encode())
    assert [row.image for row, _ in tables.read_journal()] == ["a.jpg", "c.jpg"]


def test_rows_in_the_part_of_a_journal_that_was_synced(tables: RowTables) -> None:
    lines = [tables.journal_header(), *(journal_line(tables, image) for image in "abc")]
    *starts, end = accumulate(map(len, lines))
    for synced in range(end):
        tables.journal.write_bytes("".join([*lines, journal_line(tables, "d", synced=synced)]).encode())
        rows = list(tables.read_journal())
        assert [row.image for row, _ in rows] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
        assert [is_synced for _, is_synced in rows] == [*(start < synced for start in starts), False]


def test_a_first_table_of_scores_is_written_last_and_later_ones_first(
    tables: RowTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in between leaves no shard without checksums, and no row without them."""
    renamed: list[str] = []
    rename = Path.replace

    def log_rename(path: Path, target: Path) -> Path:
        renamed.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", log_rename)
    tables.save([])
    tables.save([])
    assert renamed == ["checksums.csv", "scores.csv", "scores.csv", "checksums.csv"]


@pytest.mark.parametrize("checks", [Checks(0, 0, 0), Checks(-1, 2**32 - 1, 1), Checks(5, None, 7), Checks(5), UNKNOWN])
def test_checks_come_back(tables: RowTables, checks: Checks) -> None:
    tables.journal.write_text(tables.journal_header() + journal_line(tables, "a", checks), newline="")
    ((row, _),) = tables.read_journal()
    assert row.checks == checks
    tables.save([row])
    has_line = checks.mask_crc32 is not None
    assert list(tables.read_checks()) == [("a.jpg", checks)] * has_line
    assert list(tables.read_scores()) == [row if has_line else row._replace(checks=UNKNOWN)]


@pytest.mark.parametrize("fields", [[], ["b.jpg"], ["b.jpg", "1", "2"], ["b.jpg", "1", "2", "3", "4"]])
def test_checksums_with_another_number_of_fields_are_left_out(tables: RowTables, fields: list[str]) -> None:
    write_checks(tables, ["a.jpg", "1", "2", "3"], fields, ["c.jpg", "4", "5", "6"])
    assert list(tables.read_checks()) == [("a.jpg", Checks(1, 2, 3)), ("c.jpg", Checks(4, 5, 6))]


@pytest.mark.parametrize("fields", [["x", "1", "2"], ["1", "g", "2"], ["1", "2", "123456789"], ["1", "123456789", ""]])
def test_checksums_that_cannot_be_are_unknown(tables: RowTables, fields: list[str]) -> None:
    write_checks(tables, ["a.jpg", *fields], ["b.jpg", "4", "5", "6"])
    assert list(tables.read_checks()) == [("a.jpg", UNKNOWN), ("b.jpg", Checks(4, 5, 6))]


@pytest.mark.parametrize("in_scores", ["abcd", "bd", "dcba", "bca"])
@pytest.mark.parametrize("in_checks", ["abcd", "ac", "cb", "dcba", ""])
def test_checks_are_found_in_any_order(tables: RowTables, in_scores: str, in_checks: str) -> None:
    """A user may sort or shorten either table."""
    write_scores(tables, *in_scores)
    write_checks(tables, *([f"{image}.jpg", str(ord(image)), "0", "0"] for image in in_checks))
    expected = [Checks(ord(image), 0, 0) if image in in_checks else UNKNOWN for image in in_scores]
    assert [row.checks for row in tables.read_scores()] == expected


@pytest.mark.parametrize("note", ["", "1 smaller region left out", "mask has two grey levels; resized", "zoomed"])
def test_a_note_that_an_image_is_gone_can_be_removed(tables: RowTables, note: str) -> None:
    row = read_one(tables, note=note)
    gone = tables.mark(row, is_gone=True)
    assert gone.line == csv_line(cells("a", note="; ".join(filter(None, [note, GONE]))))
    assert tables.mark(gone, is_gone=True) == gone
    assert tables.mark(gone, is_gone=False) == row
    assert tables.mark(row, is_gone=False) is row


def test_sizes_of_images(tables: RowTables) -> None:
    assert tables.size_hw(read_one(tables)) == (2, 3)
    assert tables.size_hw(read_one(tables, width="", height="")) == (0, 0)
    with pytest.raises(InputError, match=r"a\.jpg: width is 'x'"):
        tables.size_hw(read_one(tables, width="x"))


def test_values_of_a_row(tables: RowTables) -> None:
    row = read_one(tables, confidence="0.25")
    assert (row.is_ok, row.file_bytes, row.confidence) == (True, 7, 0.25)
    assert not read_one(tables, status="failed").is_ok
    for confidence in ("", "nan", "inf"):
        assert read_one(tables, confidence=confidence).confidence is None


@pytest.mark.parametrize("names", [MaskNames.IMAGES, None])
def test_only_isic_names_share_a_row(names: MaskNames | None) -> None:
    image = "folder/ISIC_0000001_downsampled.jpg"
    assert row_key(image, names) == "folder/ISIC_0000001_downsampled"
    assert row_key(image, MaskNames.ISIC) == "folder/ISIC_0000001"
