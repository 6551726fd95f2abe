"""What Schemathesis sends as files: real images of every format that is taken, and bytes that are none."""

from io import BytesIO

import schemathesis
from hypothesis import strategies as st
from PIL import Image

from app import heic
from app.formats import FORMATS, ImageFormat


def files(image_format: ImageFormat) -> st.SearchStrategy[bytes]:
    def write(drawn: tuple[int, int, str, int]) -> bytes:
        width, height, mode, level = drawn
        file = BytesIO()
        Image.new(mode, (width, height), level).save(file, image_format.pillow_names[0])
        return file.getvalue()

    side = st.integers(1, 40)
    return st.tuples(side, side, st.sampled_from(["L", "RGB"]), st.integers(0, 255)).map(write)


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, object]
) -> None:
    """Wait long enough: a wait that nobody could keep within is answered 504, as it should, and that would
    count as an error of the server."""
    del context, kwargs
    try:
        short = 0 < float(str(case.headers.get("X-Request-Timeout"))) < 30
    except ValueError:
        return
    if short:
        case.headers["X-Request-Timeout"] = "30"


assert heic.is_readable(), "the extra heif is among those of the tests"

for taken in FORMATS.values():
    schemathesis.openapi.media_type(taken.media_type, files(taken))
schemathesis.openapi.format("binary", st.one_of(*map(files, FORMATS.values())))
