"""The portrait: the middle square of any image file, or a toy face at rest; (64, 64, 3) uint8."""

import io

import numpy as np
from PIL import Image, ImageCms, ImageOps

from media import SIZE, check_file
from tiny_data import faces


def toy_portrait(seed):
    """The toy identity `seed`, at rest: lips closed, looking straight ahead -> (64, 64, 3)
    uint8."""
    rest = np.zeros((1, len(faces.MOTION)), np.float32)
    rest[:, faces.MOTION.index("width")] = 0.5  # what silence looks like in the training data
    return faces.render(faces.identity(seed), rest)[0]


def to_srgb(image):
    """An image with an embedded colour profile -> its colours in sRGB; others as they are."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L", "P"):
        return image
    plain = image.convert("RGBA") if image.mode == "P" else image
    alpha = plain.getchannel("A") if plain.mode == "RGBA" else None
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        plain = plain.convert("RGB") if alpha else plain
        srgb = ImageCms.createProfile("sRGB")
        plain = ImageCms.profileToProfile(plain, embedded, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a broken profile, or one of another kind of image
        return image
    if alpha:
        plain.putalpha(alpha)
    return plain


def load_portrait(path):
    """Any image file -> (64, 64, 3) uint8: upright (EXIF), in sRGB, transparent parts white, the
    middle square. Raises ValueError."""
    check_file(path, "an image file")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode in ("I", "F"):
                raise ValueError("32-bit grey")
            if image.mode[0] == "I":  # 16-bit grey, which convert() would clip
                image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
            image = to_srgb(image).convert("RGBA")
    except Exception as error:  # a broken file upsets each of Pillow's readers in its own way
        with open(path, "rb") as file:
            heic = file.read(12)[4:].startswith((b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf"))
        why = "it is HEIC" if heic else " ".join(str(error).split())[:90]
        raise ValueError(
            f"{path!r} is not an image that Pillow can read ({why}): save it as JPEG or PNG"
        ) from None
    if min(image.size) < SIZE:
        raise ValueError(
            f"{path!r} is {image.width} x {image.height} pixels: at least {SIZE} x {SIZE} are "
            "needed"
        )
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.LANCZOS))
