"""Pictures from the columns of tables and from rows: what is read, and what is refused."""

import base64
import contextlib
import io
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hybridmu.core.features import image_values
from hybridmu.errors import DataError

PICTURE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def png(picture=PICTURE, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    made = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    made.save(file, kind, **options)
    return file.getvalue()


def read(value):
    return image_values.of_cell("picture", value)


def test_bytes_base64_and_data_urls_are_the_same_picture():
    data = png()
    text = base64.b64encode(data).decode()
    for value in (
        data,
        bytearray(data),
        memoryview(data),
        text,
        f"data:image/png;base64,{text}",
        png(kind="WEBP", lossless=True),
    ):
        assert np.array_equal(read(value), PICTURE)


def test_pixels_are_three_planes_or_one_or_an_array():
    planes = PICTURE[:, :4].transpose(2, 0, 1)
    for value in (planes.reshape(-1), planes.reshape(-1).tolist(), PICTURE[:, :4]):
        assert np.array_equal(read(value), PICTURE[:, :4])
    assert np.array_equal(read([7] * 9), np.full((3, 3, 3), 7))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_usual_mode_becomes_red_green_and_blue(mode):
    found = read(png(Image.fromarray(PICTURE).convert(mode)))
    assert (found.shape, found.dtype) == ((4, 5, 3), np.uint8)


def test_a_photograph_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert read(png(kind="JPEG", exif=exif)).shape == (5, 4, 3)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (b"", "can't be read"),
        (b"not a picture", "can't be read"),
        (png()[:40], "can't be read"),
        (png(kind="GIF"), "can't be read"),
        ("not base64!", "base64"),
        ("\ud800", "base64"),
        (3, "wrong value"),
        ([], "square"),
        ([1, 2], "square"),
        ([300], "0 to 255"),
        ([-1], "0 to 255"),
        ([1.5], "0 to 255"),
        (["a"], "0 to 255"),
        ([[1], [2, 3]], "0 to 255"),
        ([[1], [2]], "square"),
        (np.zeros((0, 3, 3), np.uint8), "square"),
    ],
)
def test_what_is_no_picture_is_refused(value, match):
    with pytest.raises(DataError, match=match):
        read(value)


def test_a_bomb_is_refused_before_it_is_decoded():
    """A PNG of 20,000 x 20,000 white pixels, in 50 KB."""
    side = 20_000
    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(b"\0" * (side // 8 + 1) * side, 9)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert len(bomb) < 100_000
    with pytest.raises(DataError, match="too large"):
        read(bomb)
    head = (8_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])  # less than Pillow itself refuses
    with pytest.raises(DataError, match="too large"):
        read(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def test_sixteen_bits_a_colour_are_refused_and_not_cut():
    head = (2).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])  # red, green and blue
    colours = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress((b"\0" + bytes(12)) * 2)) + chunk(b"IEND", b"")
    for data in (png(Image.fromarray(np.full((3, 3), 40_000, np.uint16))), b"\x89PNG\r\n\x1a\n" + colours):
        with pytest.raises(DataError, match="mode"):
            read(data)


@given(st.binary(max_size=200))
def test_damaged_bytes_raise_errors_of_ours(noise):
    data = png()
    for value in (noise, data[:30] + noise, noise.decode("latin-1")):
        with contextlib.suppress(DataError):
            assert read(value).ndim == 3


def test_columns_are_kept_as_requests_hold_them():
    data = png()
    text = base64.b64encode(data).decode()
    struct = pa.StructArray.from_arrays([pa.array([data]), pa.array(["a.png"])], ["bytes", "path"])
    for column in (pa.array([data]), pa.array([data], pa.large_binary()), pa.array([text]), struct):
        column = pa.chunked_array([column])
        image_values.check_type("picture", column.type)
        assert image_values.kept("picture", column).to_pylist() == [text]
        (cell,) = image_values.cells(column)
        assert np.array_equal(read(cell), PICTURE)


def test_lists_of_pixels_are_cells_of_numbers():
    lists = pa.array([[1, 2, 3], None, [4, 5, 6]], pa.list_(pa.uint8(), 3))
    for column in (lists, lists.cast(pa.list_(pa.uint8()))):
        cells = image_values.cells(pa.chunked_array([column.slice(0, 1), column.slice(1)]))
        assert [None if cell is None else cell.tolist() for cell in cells] == [[1, 2, 3], None, [4, 5, 6]]
        kept = image_values.kept("picture", pa.chunked_array([column])).to_pylist()
        assert read(kept[0]).tolist() == [[[1, 2, 3]]]
        assert kept[1] is None


def test_a_null_among_pixels_is_no_pixel():
    column = pa.chunked_array([pa.array([[1, None, 3]], pa.list_(pa.uint8(), 3))])
    with pytest.raises(DataError, match="0 to 255"):
        image_values.kept("picture", column)


def test_a_cell_of_hugging_face_is_its_bytes():
    assert np.array_equal(read({"bytes": png(), "path": None}), PICTURE)
    with pytest.raises(DataError, match="wrong value"):
        read({"bytes": None, "path": "a.png"})


@pytest.mark.parametrize("type_", [pa.int64(), pa.list_(pa.float32()), pa.struct([("path", pa.string())]), pa.bool_()])
def test_columns_that_hold_no_pictures_are_refused(type_):
    with pytest.raises(DataError, match="no pictures"):
        image_values.check_type("picture", type_)
