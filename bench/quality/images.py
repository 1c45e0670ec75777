"""Images from folders and .npz files, streamed from disk: no more than a batch is in memory."""

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

from .errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ARRAY = "arr_0"
RESAMPLING = dict(
    lanczos=Image.Resampling.LANCZOS,
    bicubic=Image.Resampling.BICUBIC,
    bilinear=Image.Resampling.BILINEAR,
    box=Image.Resampling.BOX,
)
MODES = ("crop", "stretch", "none")


@dataclasses.dataclass(frozen=True)
class Fit:
    """How images become `width` x `height` px.

    mode "crop" resizes so that both sides cover the size and cuts the middle out; "stretch" resizes
    each side by itself; "none" accepts no other size.
    """

    width: int
    height: int
    mode: str = "crop"
    resampling: str = "lanczos"

    def __call__(self, image: Image.Image) -> Image.Image:
        size = (self.width, self.height)
        if image.size == size or self.mode == "none":
            return image
        if self.mode == "stretch":
            return image.resize(size, RESAMPLING[self.resampling])
        scale = max(self.width / image.width, self.height / image.height)
        covered = (self.width / scale, self.height / scale)
        left, top = (image.width - covered[0]) / 2, (image.height - covered[1]) / 2
        box = (left, top, left + covered[0], top + covered[1])
        return image.resize(size, RESAMPLING[self.resampling], box=box)


def read_image(path: pathlib.Path, fit: Fit | None = None) -> np.ndarray:
    """uint8 [H, W, 3] of one file."""
    try:
        with Image.open(path) as image:
            whole = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: can't be read as an image: {error}") from error
    return np.asarray(fit(whole) if fit else whole)


class Folder:
    """The images of a folder, by name, or the files given, in their order."""

    def __init__(self, path: pathlib.Path, fit: Fit | None = None, files: list | None = None):
        self.path, self._fit = path, fit
        self.files = files or sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES)
        if not self.files:
            raise InputError(f"{path}: holds no images ({', '.join(SUFFIXES)})")
        self.names = [file.stem for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each image; all must have the size of the first."""
        first = None
        for file in self.files:
            image = read_image(file, self._fit)
            wanted = (self._fit.height, self._fit.width) if self._fit else first or image.shape[:2]
            if image.shape[:2] != wanted:
                raise InputError(
                    f"{file}: is {image.shape[1]}x{image.shape[0]} px, not {wanted[1]}x{wanted[0]}"
                    " as it should be: choose a size and a fit"
                )
            first = wanted
            yield image


def listed(path: pathlib.Path, listing: pathlib.Path) -> list[pathlib.Path]:
    """The files under a folder that belong to the captions of a COCO file, in the captions' order.

    `listing`: dataset_coco.json (filepath and filename) or captions_*.json (file_name). Images lie
    in `path`, or in its folder of that filepath.
    """
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))["images"]
        names = [
            (entry.get("filepath", ""), entry.get("filename") or entry["file_name"])
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{listing}: lists no images: {type(error).__name__}: {error}"
        ) from error
    return [
        below if (below := path / folder / name).exists() else path / name for folder, name in names
    ]


class Npz:
    """arr_0 of an .npz file, uint8 [N, H, W, 3]."""

    def __init__(self, path: pathlib.Path, fit: Fit | None = None):
        self.path, self._fit = path, fit
        with self._open() as (_, shape):
            self._shape = shape
        self.names = [f"{number:05d}" for number in range(len(self))]

    def __len__(self) -> int:
        return self._shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        with self._open() as (stream, (count, *shape)):
            for number in range(count):
                data = _read_exactly(stream, int(np.prod(shape)), f"{self.path}: image {number}")
                image = np.frombuffer(data, np.uint8).reshape(shape)
                yield np.asarray(self._fit(Image.fromarray(image))) if self._fit else image

    def _open(self):
        return _OpenArray(self.path)


def _read_exactly(stream, count: int, what: str) -> bytes:
    try:
        data = stream.read(count)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{what}: {error}") from error
    if len(data) != count:
        raise InputError(f"{what}: {len(data)} bytes, should be {count}")
    return data


class _OpenArray:
    """Context: (stream at the first byte of arr_0's data, shape)."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def __enter__(self):
        try:
            self._file = zipfile.ZipFile(self._path)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{self._path}: can't be read as .npz: {error}") from error
        try:
            return self._enter()
        except BaseException:
            self._file.close()
            raise

    def _enter(self):
        name = ARRAY + ".npy"
        if name not in self._file.namelist():
            held = ", ".join(entry.removesuffix(".npy") for entry in self._file.namelist())
            raise InputError(f"{self._path}: has no {ARRAY}, only {held or 'nothing'}")
        stream = self._file.open(name)
        try:
            version = np.lib.format.read_magic(stream)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, in_columns, dtype = read(stream)
        except (ValueError, KeyError) as error:
            raise InputError(f"{self._path}: {ARRAY} is no array: {error}") from error
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or in_columns or not shape[0]:
            raise InputError(
                f"{self._path}: {ARRAY} is {dtype} {list(shape)}, should be uint8 [N, H, W, 3]"
            )
        return stream, shape

    def __exit__(self, *_):
        self._file.close()


def open_images(path: pathlib.Path, fit: Fit | None = None) -> Folder | Npz:
    """A folder of images, or an .npz file."""
    path = pathlib.Path(path)
    if path.is_dir():
        return Folder(path, fit)
    if not path.exists():
        raise InputError(f"{path}: does not exist")
    return Npz(path, fit)


def batches(images, size: int) -> Iterator[np.ndarray]:
    """uint8 [n, H, W, 3], n <= size, in order."""
    batch: list[np.ndarray] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def check_paired(one, other) -> None:
    """Both have as many images, of the same names where they have names."""
    if len(one) != len(other):
        raise InputError(
            f"{other.path}: {len(other)} images, but {one.path} has {len(one)}: can't be paired"
        )
    if isinstance(one, Folder) and isinstance(other, Folder):
        for mine, its in zip(one.names, other.names):
            if mine != its:
                raise InputError(f"{other.path}: {its} stands where {one.path} has {mine}")
