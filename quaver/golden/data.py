"""Data sets: scikit-learn's digits, MNIST, Fashion-MNIST and CIFAR-10, whole and checked or not at all.

The digits come with scikit-learn. The others are read from a directory that the user names, or else from the
cache directory, into which they are downloaded when they are not there.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from quaver.golden import caches, stored_arrays
from quaver.golden.files import write
from quaver.golden.validation import set_integers

Progress = Callable[[str, int, int], None]
"""Called during a download with file name, bytes so far, and bytes in all (0: unknown)."""


@dataclass(frozen=True)
class Dataset:
    """Images with their classes, for training and for testing.

    Parameters
    ----------
    name
        What messages and checkpoints call it.
    classes
        How many classes there are; labels are 0 … classes − 1.
    train_images, test_images
        uint8 (count, channels, height, width); all images have one size.
    train_labels, test_labels
        uint8 (count,): the class of each image.

    Raises
    ------
    TypeError, ValueError
        An array has another dtype or shape, is empty, or holds a label that is no class; the message says
        which.
    """

    name: str
    classes: int
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        set_integers(self, "classes")
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if (
                images.dtype != np.uint8
                or images.ndim != 4
                or images.shape[1:] != self.train_images.shape[1:]
            ):
                raise ValueError(
                    f"{self.name}: {part} images are {images.dtype} {images.shape}, "
                    f"but they must be uint8 (count, channels, height, width), alike in both parts"
                )
            if not images.size:
                raise ValueError(
                    f"{self.name}: the {part} images have the shape {images.shape}, so that there are none; "
                    "training takes at least 1 image, and so does testing"
                )
            if labels.shape != (len(images),):
                raise ValueError(
                    f"{self.name}: {len(images)} {part} images, but labels of shape {labels.shape}; "
                    "there must be a label for each"
                )
            if labels.dtype != np.uint8:
                raise ValueError(f"{self.name}: {part} labels are {labels.dtype}, but they must be uint8")
            if int(labels.max()) >= self.classes:
                raise ValueError(
                    f"{self.name}: a {part} label is {labels.max()}, but there are {self.classes} classes, "
                    f"0 to {self.classes - 1}"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.train_images.shape[1:]

    @cached_property
    def sha256(self) -> str:
        """Hash of all images and labels: it says which data these are, whatever file they came from."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(array.tobytes())
        return digest.hexdigest()

    @cached_property
    def mean_and_deviation(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of the training images, for each channel: float32 (C, 1, 1) both."""
        count = self.train_images.size / self.shape[0]
        mean = self.train_images.sum(axis=(0, 2, 3), dtype=np.int64) / count
        squares = np.array(
            [
                np.square(self.train_images[:, c], dtype=np.uint32).sum(dtype=np.int64)
                for c in range(self.shape[0])
            ]
        )
        deviation = np.sqrt(squares / count - mean**2)
        return (
            mean.astype(np.float32)[:, None, None],
            np.maximum(deviation, 1e-6).astype(np.float32)[:, None, None],
        )

    def standardised(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`images` (B, C, H, W) in float32, less the training set's mean in each channel, over its standard
        deviation in that channel."""
        mean, deviation = self.mean_and_deviation
        return (images - mean) / deviation

    def __str__(self) -> str:
        size = "×".join(map(str, self.shape))
        return (
            f"{self.name}: {len(self.train_labels)} training and {len(self.test_labels)} test images {size}"
        )


@dataclass(frozen=True)
class _File:
    """A file of a data set: its name, and the SHA-256 of what it holds once any .gz around it is opened."""

    name: str
    sha256: str
    address: str


def _idx_files(address: str, sums: dict[str, str]) -> tuple[_File, ...]:
    return tuple(_File(f"{name}.gz", sha256, f"{address}/{name}.gz") for name, sha256 in sums.items())


#: Checksums of the unpacked IDX files, so that a file which was packed again, or is not packed, is as good as
#: the canonical .gz.
_MNIST = _idx_files(
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)
_FASHION_MNIST = _idx_files(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)
#: Checksum of the archive itself. It holds pickles, which run code, so that nothing in it is opened unless it
#: is the right archive.
_CIFAR10 = _File(
    "cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
#: A part of CIFAR-10 may be used instead, as these arrays.
_CIFAR10_ARRAYS = ("cifar10.npz", "cifar10-subset.npz")
_CIFAR10_SHAPE = (3, 32, 32)
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10")


def load(name: str, directory: str | Path | None = None, *, progress: Progress | None = None) -> Dataset:
    """A data set, whole and checked.

    Parameters
    ----------
    name
        One of `NAMES`, or the `name` of a `Dataset` that this function returned.
    directory
        Its files are read here or in ``directory/name``, and nothing is downloaded. None: they are read in
        the cache directory, and downloaded into it if they are not there.
    progress
        Called while a file is downloaded.

    Raises
    ------
    FileNotFoundError
        A file is not there, or cannot be downloaded; the message says which files to put where.
    ValueError
        The name is not known, or a file is corrupted or incomplete; the message names the file and its
        checksum.
    """
    if f"{name}.npz" in _CIFAR10_ARRAYS:  # as the data set calls itself that comes from such a file
        name = "cifar10"
    if name not in NAMES:
        raise ValueError(f"the data set is {name!r}, but there are {', '.join(NAMES)}")
    if name == "digits":
        return _digits()
    files = (_CIFAR10,) if name == "cifar10" else _MNIST if name == "mnist" else _FASHION_MNIST
    folder = _Folder(name, files, directory, progress)
    if name == "cifar10":
        return _cifar10(folder)
    folder.check()
    train_images, train_labels, test_images, test_labels = (_idx(folder.opened(file)) for file in files)
    return Dataset(name, 10, train_images[:, None], train_labels, test_images[:, None], test_labels)


def _digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8×8 pixels, 0 … 16, in a fixed shuffle: 1,437 to train, 360 to test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = images[order].astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = labels[order].astype(np.uint8)
    return Dataset("digits", 10, images[:1437], labels[:1437], images[1437:], labels[1437:])


def _cifar10(folder: _Folder) -> Dataset:
    for name in _CIFAR10_ARRAYS:
        path = folder.find(name)
        if path is not None and folder.find(_CIFAR10.name) is None:
            return _arrays(path)
    folder.check(f", or {_CIFAR10_ARRAYS[0]} with {', '.join(_ARRAYS)}")
    with tarfile.open(fileobj=io.BytesIO(folder.opened(_CIFAR10)), mode="r:gz") as archive:
        parts = []
        for member in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
            file = archive.extractfile(f"cifar-10-batches-py/{member}")
            batch = pickle.load(cast("IO[bytes]", file), encoding="bytes")  # the checksum says it is there
            parts.append((batch[b"data"].reshape(-1, 3, 32, 32), np.array(batch[b"labels"], np.uint8)))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts[:5], strict=True))
    return Dataset("cifar10", 10, images, labels, *parts[5])


def _arrays(path: Path) -> Dataset:
    """CIFAR-10, or a part of it, from an .npz file; labels may be of any integer type."""
    try:
        stored = stored_arrays.load(path)
    except ValueError as error:
        raise _corrupted(path, path.read_bytes(), f"({error})") from error
    if stored.keys() != set(_ARRAYS):
        there = ", ".join(stored) or "none"
        raise ValueError(f"{path} must hold the arrays {', '.join(_ARRAYS)}, but it holds {there}")
    for part in ("train", "test"):
        images, labels = stored[f"{part}_images"], stored[f"{part}_labels"]
        if images.shape[1:] != _CIFAR10_SHAPE:
            raise ValueError(
                f"{path}: {part} images have the shape {images.shape}, but CIFAR-10's are (count, "
                f"{', '.join(map(str, _CIFAR10_SHAPE))})"
            )
        if labels.dtype.kind in "iu" and labels.size and labels.min() >= 0 and labels.max() < 256:
            stored[f"{part}_labels"] = labels.astype(np.uint8)
        elif labels.dtype.kind in "iu" and labels.size:
            raise ValueError(
                f"{path}: {part} labels are {labels.min()} to {labels.max()}, but there are 10 classes, 0 to "
                "9"
            )
    try:
        return Dataset(path.stem, 10, *(stored[name] for name in _ARRAYS))
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path.stem}: ')}") from None


class _Folder:
    """Where a data set's files lie."""

    def __init__(
        self,
        dataset: str,
        files: tuple[_File, ...],
        directory: str | Path | None,
        progress: Progress | None,
    ) -> None:
        self.dataset, self.files = dataset, files
        self.downloads = directory is None
        self.progress = progress
        self.path = caches.place("data") if directory is None else Path(directory)
        if directory is not None and not self.path.is_dir():
            raise FileNotFoundError(
                f"the data directory {self.path} is not a directory; name one that exists"
            )

    def find(self, name: str) -> Path | None:
        """The file, here or in the folder named as the data set."""
        return next((p for p in (self.path / name, self.path / self.dataset / name) if p.is_file()), None)

    def path_of(self, file: _File) -> Path | None:
        """Where the file lies, packed or not."""
        unpacked = file.name.removesuffix(".gz")
        return self.find(file.name) or (self.find(unpacked) if file is not _CIFAR10 else None)

    def check(self, instead: str = "") -> None:
        """FileNotFoundError: some of the files are not there, and are not to be downloaded."""
        missing = [file for file in self.files if self.path_of(file) is None]
        if missing and not self.downloads:
            raise FileNotFoundError(
                f"{self.dataset}: {_names(missing)} must lie in {self.path} or {self.path / self.dataset}; "
                f"put what is missing there (from {missing[0].address.rpartition('/')[0]}){instead}, or "
                f"name another directory with --data-dir"
            )

    def opened(self, file: _File) -> bytes:
        """The content of the file, checked; it is downloaded first if it is missing and may be."""
        path = self.path_of(file)
        return self._download(file) if path is None else _checked(file, path, path.read_bytes())

    def _download(self, file: _File) -> bytes:
        target = self.path / self.dataset / file.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(file.address, timeout=30) as response:
                total = int(response.headers.get("Content-Length") or 0)
                parts: list[bytes] = []
                done = 0
                while part := response.read(1 << 18):
                    parts.append(part)
                    done += len(part)
                    if self.progress is not None:
                        self.progress(file.name, done, total)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"{self.dataset}: {file.address} cannot be downloaded ({error}); "
                f"fetch it elsewhere and put it at {target}, or name with --data-dir a directory that holds "
                f"{_names(self.files)}"
            ) from error
        packed = b"".join(parts)
        content = _checked(file, Path(file.address), packed)
        write(target, packed)
        return content


def _names(files: Iterable[_File]) -> str:
    return ", ".join(file.name for file in files)


def _checked(file: _File, path: Path, stored: bytes) -> bytes:
    content = stored
    if path.suffix == ".gz" and file is not _CIFAR10:
        try:
            content = gzip.decompress(stored)
        except (EOFError, OSError, zlib.error) as error:
            raise _corrupted(path, stored, f"({error})") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise _corrupted(path, content, f"where {file.sha256} is right")
    return content


def _corrupted(path: Path, content: bytes, why: str) -> ValueError:
    return ValueError(
        f"{path} is corrupted, partial or another file: SHA-256 {hashlib.sha256(content).hexdigest()} {why}; "
        f"remove it and fetch it again"
    )


def _idx(content: bytes) -> NDArray[np.uint8]:
    """An IDX file of bytes: 0, 0, type 8, dimensions, the sizes in big-endian 32 bits, the data.

    Its checksum is known, so that nothing else about it needs to be checked.
    """
    dimensions = content[3]
    sizes = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(sizes)
