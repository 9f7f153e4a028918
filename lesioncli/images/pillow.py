"""The last step of the readers that decode with Pillow: BMP, PNG and WebP.

They use Pillow's classes directly, not Image.open(): that warns above 89 megapixels, and its limit and the warning
filters are process-wide settings, which belong to the program that imports this package.
"""

from PIL.ExifTags import Base as Tag
from PIL.ImageFile import ImageFile as PillowFile

from lesioncli.images.color import to_srgb
from lesioncli.images.geometry import UInt8, to_upright
from lesioncli.images.pixels import DecodedImage, describe_conversion, join_notes, valid_orientation


def to_upright_srgb(image: PillowFile, rgb: UInt8, note: str = "", bits: int = 8) -> DecodedImage:
    """Convert the decoded pixels (h, w, 3) of an image to upright sRGB; `bits` is the number per stored sample."""
    orientation = valid_orientation(image.getexif().get(Tag.Orientation))
    converted, color_note = to_srgb(rgb, image.info.get("icc_profile"), image.mode)
    conversion = describe_conversion(getattr(image, "n_frames", 1), "frames", bits)
    notes = join_notes(conversion, color_note, note)
    return DecodedImage(to_upright(converted, orientation), rgb.shape[:2], orientation, notes)
