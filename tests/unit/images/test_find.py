"""list_images(): which files are images, which are ignored, and which inputs are refused."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.pictures import draw, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lesioncli.errors import ImageError, InputError
from lesioncli.images.decode import decode
from lesioncli.images.find import (
    MASKS_BESIDE,
    MAX_KINDS_SHOWN,
    ImageFile,
    describe_ignored,
    find_images,
    list_images,
    name_masks_by_isic,
)
from lesioncli.images.formats import supported_suffixes
from lesioncli.images.ignored import PH2_MASKS


def tree(folder: Path, *names: str) -> Path:
    """Write files of any content below a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"any")
    return folder


def names(images: list[ImageFile]) -> list[str]:
    return [image.name for image in images]


def test_folders_are_searched_recursively_in_order(tmp_path: Path) -> None:
    folder = tree(tmp_path, "b.jpg", "a/z.PNG", "a/b/c.tiff", "a.d/x.y.jpeg", "C.webp", "notes.txt", "x.csv", "jpg")
    images = find_images([folder])
    assert names(images) == ["C", "a.d/x.y", "a/b/c", "a/z", "b"]
    assert images[3] == ImageFile(folder / "a/z.PNG", "a/z")


def test_suffixes_in_either_case(tmp_path: Path) -> None:
    expected = [f"{number}{suffix}" for number, suffix in enumerate(supported_suffixes())]
    tree(tmp_path, *expected, *(f"upper{name.upper()}" for name in expected))
    assert len(find_images([tmp_path])) == 2 * len(expected)


def test_hidden_files_and_superpixels_are_ignored(tmp_path: Path) -> None:
    tree(tmp_path, "x.jpg", "._x.jpg", ".hidden/y.jpg", "x_superpixels.png", "sub/.z.png")
    assert names(find_images([tmp_path])) == ["x"]


def test_ignored_files_are_counted_by_kind(tmp_path: Path) -> None:
    tree(tmp_path, "a/x.jpg", "a/b/1.xcf", "a/2.XCF", "a/3.jxl", "a/README", "a/c.d/v.1", "a/.hidden", "a/.h/4.xcf")
    tree(tmp_path, "a/x_superpixels.png", "a/out/scores.csv", "one.jpg")
    listing = list_images([tmp_path / "a", tmp_path / "a" / "b", tmp_path / "one.jpg"], exclude=tmp_path / "a" / "out")
    assert names(listing.images) == ["a/x", "one"]
    expected = {".xcf": 2, ".jxl": 1, ".1": 1, "without suffix": 1, "*_superpixels.png": 1}
    assert listing.ignored == expected
    assert next(iter(listing.ignored)) == ".xcf"
    assert "2 .xcf, 1 " in describe_ignored(listing.ignored)
    with pytest.raises(InputError, match=r"1 \.xcf"):
        list_images([tmp_path / "a" / "b"])


def test_ground_truth_masks_and_output_folders_are_ignored_unless_they_are_sources(tmp_path: Path) -> None:
    tree(tmp_path, "x.jpg", "x_segmentation.png", "old/sub/x.png", "old/overlays/x.jpg", "mine/y.png", "list/z.png")
    (tmp_path / "old" / "run.json").write_text('{"engine_sha256": "ab"}')
    (tmp_path / "mine" / "run.json").write_text('{"epoch": 7}')
    (tmp_path / "list" / "run.json").write_text("7")
    listing = list_images([tmp_path])
    assert names(listing.images) == ["list/z", "mine/y", "x"]
    assert listing.ignored == {"*_segmentation.png": 1, ".json": 2, "output folder(s) of segment": 1}
    assert names(list_images([tmp_path / "old"]).images) == ["overlays/x", "sub/x"]
    assert names(list_images([tmp_path / "x_segmentation.png"]).images) == ["x_segmentation"]
    assert list_images([tmp_path], exclude=tmp_path / "old").ignored == {"*_segmentation.png": 1, ".json": 2}


def test_isic_masks_in_either_case(tmp_path: Path) -> None:
    """The masks of the challenge of 2016 have a capital letter."""
    tree(tmp_path, "x.jpg", "x_Segmentation.png", "y_SEGMENTATION.PNG", "z_Superpixels.png")
    listing = list_images([tmp_path])
    assert names(listing.images) == ["x"]
    assert listing.ignored == {"*_segmentation.png": 2, "*_superpixels.png": 1}


def test_a_file_given_as_a_source_is_not_ignored(tmp_path: Path) -> None:
    tree(tmp_path, "x.jpg", "y_superpixels.png")
    listing = list_images([tmp_path, tmp_path / "y_superpixels.png"])
    assert (names(listing.images), listing.ignored) == (["x", "y_superpixels"], {})


def test_only_some_of_many_ignored_kinds_are_shown() -> None:
    description = describe_ignored({f".{number}": 1 for number in range(MAX_KINDS_SHOWN + 2)})
    assert "1 .0" in description
    assert description.endswith("1 .9, and 2 more kinds")
    assert describe_ignored({}) == ""


def test_files_and_folders_may_be_mixed(tmp_path: Path) -> None:
    tree(tmp_path, "in/sub/a.jpg", "single.png")
    assert names(find_images([tmp_path / "single.png", tmp_path / "in"])) == ["in/sub/a", "single"]


def test_names_are_relative_to_the_deepest_common_folder_or_the_root(tmp_path: Path) -> None:
    tree(tmp_path, "in/P01/a.jpg", "in/P02/a.jpg", "in/P02/b.jpg")
    both = [tmp_path / "in/P01", tmp_path / "in/P02"]
    assert names(find_images(both)) == ["P01/a", "P02/a", "P02/b"] == names(find_images([tmp_path / "in"]))
    assert names(find_images([*both[0].iterdir(), *both[1].iterdir()])) == ["P01/a", "P02/a", "P02/b"]
    assert names(find_images([both[0] / "a.jpg"])) == names(find_images(both[:1])) == ["a"]
    for root in (tmp_path / "in", tmp_path / "in" / "P01" / ".."):
        parts = [names(find_images([part], root=root)) for part in both]
        assert parts == [["P01/a"], ["P02/a", "P02/b"]]
    with pytest.raises(InputError, match=r"P02.*--root"):
        find_images(both, root=both[0])


def draw_mask(path: Path, mode: str = "L") -> None:
    mask = Image.new("L", (40, 30))
    mask.paste(255, (10, 8, 25, 20))
    mask.convert(mode).save(path)


def test_masks_beside_their_image_are_ignored_and_counted(tmp_path: Path) -> None:
    for name in ("x.jpg", "x_crop.png", "y.png", "z.jpg", "z_1.jpg"):
        save(tmp_path / name, draw(len(name), 30, 40))
    for name in ("x_mask.png", "x_GT.png", "x_lesion.bmp", "x_segmentation.bmp", "x_seg.png", "x.png", "z-mask.jpg"):
        draw_mask(tmp_path / name)
    draw_mask(tmp_path / "x_attribute_globules.png", "1")
    draw_mask(tmp_path / "x_colors.png", "RGB")
    Image.new("L", (40, 30)).save(tmp_path / "y_empty.png")
    (tmp_path / "y_broken.png").write_bytes(b"")
    draw_mask(tmp_path / "alone_mask.png")
    listing = list_images([tmp_path])
    assert names(listing.images) == ["alone_mask", "x", "x_crop", "y", "y_broken", "z", "z_1"]
    assert [image.path.suffix for image in listing.images if image.name == "x"] == [".jpg"]
    assert listing.ignored == {MASKS_BESIDE: 10}
    assert names(find_images([tmp_path / "x_mask.png"])) == ["x_mask"]


def test_files_named_one_by_one_are_the_images_of_their_folder(tmp_path: Path) -> None:
    """A shell lists them so for `images/*`."""
    for name in ("x.jpg", "y.jpg", "z_superpixels.png", "x_superpixels.png", "x_crop.png"):
        save(tmp_path / name, draw(len(name), 30, 40))
    for name in ("x_mask.png", "y.png", "x_SEGMENTATION.png", "z_segmentation.png"):
        draw_mask(tmp_path / name)
    listing = list_images(sorted(tmp_path.iterdir()))
    assert names(listing.images) == ["x", "x_crop", "y", "z_segmentation", "z_superpixels"]
    assert listing.ignored == {MASKS_BESIDE: 2, "*_segmentation.png": 1, "*_superpixels.png": 1}
    assert names(find_images([tmp_path / "x_superpixels.png", tmp_path / "y.png"])) == ["x_superpixels", "y"]


def test_links_are_looked_up_for_folders_and_links_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up per file takes most of the time of listing 100,000 files."""
    tree(tmp_path, *(f"in/{number}.jpg" for number in range(200)))
    real, calls = os.path.realpath, list[Any]()

    def counted(path: Any, **options: Any) -> Any:
        calls.append(path)
        return real(path, **options)

    monkeypatch.setattr(os.path, "realpath", counted)
    assert len(find_images([tmp_path / "in"], tmp_path / "out")) == 200
    assert len(calls) < 20


@pytest.mark.parametrize("folder", ["PH2 Dataset images", "PH2_Dataset_images", "other"])
def test_masks_of_ph2_are_ignored(folder: str, tmp_path: Path) -> None:
    case = f"{folder}/IMD002/IMD002"
    tree(tmp_path, f"{case}_Dermoscopic_Image/IMD002.bmp", f"{case}_lesion/IMD002_lesion.bmp", f"{case}_roi/R1.bmp")
    listing = list_images([tmp_path])
    assert [image.path.name for image in listing.images] == ["IMD002.bmp"]
    assert listing.ignored == {PH2_MASKS: 2}


def test_relative_sources_keep_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path, "in/sub/a.jpg"))
    assert find_images([Path("in")]) == [ImageFile(Path("in/sub/a.jpg"), "sub/a")]
    assert find_images([Path()]) == [ImageFile(Path("in/sub/a.jpg"), "in/sub/a")]


def test_the_output_folder_is_excluded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "in/x.jpg", "in/masks/x.png", "in/masks/sub/y.png", "in/masks2/z.jpg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "in/masks")
    for exclude in (tmp_path / "in/masks", Path("in/masks"), Path("link")):
        assert names(find_images([tmp_path / "in"], exclude)) == ["masks2/z", "x"]
    assert names(find_images([tmp_path / "in"], tmp_path / "not yet")) == ["masks/sub/y", "masks/x", "masks2/z", "x"]
    with pytest.raises(InputError, match="output folder in"):
        find_images([Path("in/x.jpg"), Path("in/masks")], Path("in"))


def test_sources_in_the_output_folder_are_ignored_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a second `segment in/*/*.png in/x.jpg --out in/masks`; a mask could overwrite its own image."""
    monkeypatch.chdir(tree(tmp_path, "in/x.jpg", "in/masks/x.png", "in/masks/y.png", "in/masks/z/z.png", "one.png"))
    listing = list_images([Path("in/masks/x.png"), Path("in/masks/y.png"), Path("in")], Path("in/masks"))
    assert (names(listing.images), listing.ignored) == (["x"], {"in the output folder": 2})
    with pytest.raises(InputError, match=r"one\.png.*1 in the output folder"):
        list_images([Path("one.png")], Path())


def test_a_file_given_twice_is_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path, "in/x.jpg"))
    assert names(find_images([Path("in"), tmp_path / "in", Path("in/../in/x.jpg")])) == ["x"]


def test_a_link_to_a_file_is_an_image_of_its_own(tmp_path: Path) -> None:
    tree(tmp_path, "in/x.jpg")
    (tmp_path / "in/y.jpg").symlink_to("x.jpg")
    assert names(find_images([tmp_path / "in"])) == ["x", "y"]


def test_two_links_to_one_folder_are_two_folders(tmp_path: Path) -> None:
    tree(tmp_path, "elsewhere/x.jpg", "in/z.jpg")
    for name in ("a", "b"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere")
    assert names(find_images([tmp_path / "in"])) == ["a/x", "b/x", "z"]


def test_a_link_into_the_folder_itself_adds_only_hidden_folders(tmp_path: Path) -> None:
    tree(tmp_path, "in/run2/x.jpg", "in/.store/y.jpg")
    (tmp_path / "in/latest").symlink_to("run2")
    (tmp_path / "in/stored").symlink_to(".store")
    assert names(find_images([tmp_path / "in"])) == ["run2/x", "stored/y"]


def test_folders_that_link_to_each_other(tmp_path: Path) -> None:
    tree(tmp_path, "a/x.jpg", "b/y.jpg")
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    assert names(find_images([tmp_path / "a"])) == ["to_b/y", "x"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    tree(tmp_path, "in/a/x.jpg", "elsewhere/y.jpg")
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/self.jpg").symlink_to("self.jpg")
    assert names(find_images([tmp_path / "in"])) == ["a/x", "linked/y", "self"]


@pytest.mark.parametrize("clash", [("x.jpg", "x.png"), ("A.jpg", "a.png"), ("s/x.jpg", "S/X.jpg")])
def test_two_images_must_not_share_a_mask(tmp_path: Path, clash: tuple[str, str]) -> None:
    tree(tmp_path, "other.jpg", *clash)
    if len(list(tmp_path.rglob("*.*"))) < 3:
        pytest.skip("this file system ignores case")
    with pytest.raises(InputError) as refused:
        find_images([tmp_path])
    assert all(str(tmp_path / name) in str(refused.value) for name in clash)
    assert "other" not in str(refused.value)


def test_three_pairs_with_the_same_mask_are_shown(tmp_path: Path) -> None:
    files = [f"{number}.jpg" for number in range(5)]
    tree(tmp_path, *files, *(f"{number}.png" for number in range(5)))
    with pytest.raises(InputError, match=r"2\.png; and 2 more") as refused:
        find_images([tmp_path])
    assert "3.jpg" not in str(refused.value)


def test_bad_sources_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "x.jpg", "x.xcf", "empty/notes.txt")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "none"))):
        find_images([tmp_path, tmp_path / "none"])
    with pytest.raises(InputError, match=r"x\.xcf.* \.bmp .* \.jpeg"):
        find_images([tmp_path / "x.xcf"])
    with pytest.raises(InputError, match=r"empty.* \.bmp .* \.jpeg"):
        find_images([tmp_path / "empty"])


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # permissions do not stop root, which may run these tests
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    tree(tmp_path, "x.jpg", "locked/y.jpg")
    listing = list_images([tmp_path])
    assert names(listing.images) == ["x"]
    assert listing.unreadable == {
        str(tmp_path / "locked"): "cannot be listed (Permission denied); check its permissions"
    }
    with pytest.raises(InputError, match=r"locked.*Permission denied"):
        find_images([tmp_path / "locked"])


parts = st.text("aA.é_ -", min_size=1, max_size=4).filter(lambda text: text.strip(".") == text and text.strip())


@settings(deadline=None, database=None, derandomize=True, max_examples=30)
@given(paths=st.sets(st.lists(parts, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6))
def test_masks_stay_in_the_output_folder_and_apart(tmp_path_factory: pytest.TempPathFactory, paths: set[str]) -> None:
    folder = tree(tmp_path_factory.mktemp("tree"), *(f"{path}.jpg" for path in paths))
    if len({path.lower() for path in paths}) < len(paths):
        with pytest.raises(InputError):
            find_images([folder])
        return
    images = find_images([folder])
    assert {image.name for image in images} == paths
    assert names(images) == sorted(names(images))
    out = folder / "out"
    assert all((out / image.mask_name).resolve().is_relative_to(out.resolve()) for image in images)


def test_masks_with_isic_names(tmp_path: Path) -> None:
    tree(tmp_path, "sub/x_0000001_y.jpg", "ISIC_0000004.jpg")
    images = name_masks_by_isic(find_images([tmp_path]))
    assert {image.name: image.mask_name for image in images} == {
        "sub/x_0000001_y": "sub/ISIC_0000001_segmentation.png",
        "ISIC_0000004": "ISIC_0000004_segmentation.png",
    }


@pytest.mark.parametrize("name", ["x.jpg", "ISIC_12345.jpg", "ISIC_0000001_0000002.jpg", "0000001/x.jpg"])
def test_an_image_without_an_isic_number_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{re.escape(name)}.*--isic"):
        name_masks_by_isic(find_images([tree(tmp_path, name)]))


def test_two_images_with_one_isic_number_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a/ISIC_0000001.jpg", "b/0000001.jpg")
    with pytest.raises(InputError, match=r"a/ISIC_0000001\.jpg.*b/0000001\.jpg"):
        name_masks_by_isic(find_images([tmp_path]))


def test_a_named_file_that_cannot_be_looked_at_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(call: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(path: Any, *args: Any, **options: Any) -> Any:
            if str(path).endswith("locked/y.jpg"):
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *args, **options)

        return refuse

    tree(tmp_path, "x.jpg", "locked/y.jpg")
    for name in ("stat", "open"):  # permissions do not stop root, which may run these tests
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    images = find_images([tmp_path / "x.jpg", tmp_path / "locked" / "y.jpg"])
    assert names(images) == ["locked/y", "x"]
    with pytest.raises(ImageError, match="Permission denied"):
        decode(images[0].path, (8, 8))
