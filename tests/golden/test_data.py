"""Data sets: whole and checked or not at all. No network is used: downloads come from file:// addresses."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile

import numpy as np
import pytest

from quaver.golden import caches, data


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A directory with four IDX files of the right form, which `data` is told are MNIST."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (20, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": rng.integers(0, 10, 20, np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (5, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, 5, np.uint8),
    }
    source = tmp_path / "source"
    source.mkdir()
    for name, array in arrays.items():
        (source / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    sums = {name: hashlib.sha256(idx(array)).hexdigest() for name, array in arrays.items()}
    monkeypatch.setattr(data, "_MNIST", data._idx_files(source.as_uri(), sums))
    monkeypatch.setattr(caches, "_usual", lambda: tmp_path / "cache")
    return source, arrays


def test_digits():
    digits = data.load("digits")
    assert digits.shape == (1, 8, 8)
    assert (len(digits.train_labels), len(digits.test_labels)) == (1437, 360)
    assert digits.train_images.max() == 16
    assert sorted(set(digits.test_labels)) == list(range(10))
    assert digits.sha256 == data.load("digits").sha256
    x = digits.standardised(digits.train_images)
    assert x.dtype == np.float32
    assert abs(x.mean()) < 1e-5
    assert abs(x.std() - 1) < 1e-5


@pytest.mark.parametrize("layout", ["flat", "named", "unpacked", "packed anew"])
def test_idx_from_a_directory(mnist, tmp_path, layout):
    source, arrays = mnist
    folder = tmp_path / "given" / ("mnist" if layout == "named" else "")
    folder.mkdir(parents=True)
    for name in arrays:
        content = gzip.decompress((source / f"{name}.gz").read_bytes())
        if layout == "unpacked":
            (folder / name).write_bytes(content)
        else:
            level = 1 if layout == "packed anew" else 9
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, level, mtime=level))
    loaded = data.load("mnist", tmp_path / "given")
    assert np.array_equal(loaded.train_images[:, 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(loaded.test_labels, arrays["t10k-labels-idx1-ubyte"])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "not gzip", "other content"])
def test_a_corrupted_file_is_refused_with_its_checksum(mnist, damage):
    source, _ = mnist
    path = source / "train-images-idx3-ubyte.gz"
    stored = bytearray(path.read_bytes())
    if damage == "truncated":
        stored = stored[:-100]
    elif damage == "flipped":
        stored[len(stored) // 2] ^= 1
    elif damage == "empty":
        stored = bytearray()
    elif damage == "not gzip":
        stored = bytearray(b"<html>404</html>")
    else:
        stored = bytearray(gzip.compress(gzip.decompress(bytes(stored))[:-1] + b"?"))
    path.write_bytes(stored)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is corrupted.*SHA-256 [0-9a-f]{64}"):
        data.load("mnist", source)


def test_download_into_the_cache_and_from_there(mnist, tmp_path):
    source, arrays = mnist
    told = []
    loaded = data.load("mnist", progress=lambda *event: told.append(event))
    assert np.array_equal(loaded.test_images[:, 0], arrays["t10k-images-idx3-ubyte"])
    assert told[0][0] == "train-images-idx3-ubyte.gz"
    folder = tmp_path / "cache" / "data" / "mnist"
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{name}.gz" for name in arrays)
    for path in source.iterdir():
        path.unlink()
    assert data.load("mnist").sha256 == loaded.sha256


def test_a_bad_download_leaves_nothing(mnist, tmp_path):
    source, _ = mnist
    path = source / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="SHA-256"):
        data.load("mnist")
    assert not list((tmp_path / "cache" / "data" / "mnist").iterdir())


def test_no_network_says_where_to_put_the_file(mnist, tmp_path):
    source, _ = mnist
    (source / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"cannot be downloaded.*put it at .*cache/data/mnist/train-im.*--data-dir .*, t10k-labels-idx1",
    ):
        data.load("mnist")


def test_a_named_directory_is_never_downloaded_into(mnist, tmp_path):
    every = r"train-images-\S+.gz, train-labels-\S+.gz, t10k-images-\S+.gz, t10k-labels-\S+.gz"
    lie = rf"mnist: {every} must lie in .* or .*/mnist; put what is missing there .* with --data-dir"
    with pytest.raises(FileNotFoundError, match=lie):
        data.load("mnist", tmp_path)
    (mnist[0] / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"mnist: t10k-labels-idx1-ubyte.gz must lie in"):
        data.load("mnist", mnist[0])
    assert not (tmp_path / "cache").exists()
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a directory"):
        data.load("mnist", tmp_path / "nowhere")


def test_cifar10_arrays(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"put .*, or cifar10.npz with train_images, .*--data-dir"):
        data.load("cifar10", tmp_path)
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (8, 3, 32, 32), np.uint8),
        "train_labels": rng.integers(0, 10, 8, np.uint8),
        "test_images": rng.integers(0, 256, (4, 3, 32, 32), np.uint8),
        "test_labels": rng.integers(0, 10, 4, np.uint8),
    }
    path = tmp_path / "cifar10-subset.npz"
    np.savez(path, **arrays)
    loaded = data.load("cifar10", tmp_path)
    assert loaded.name == "cifar10-subset"
    assert data.load(loaded.name, tmp_path).sha256 == loaded.sha256
    assert np.array_equal(loaded.test_images, arrays["test_images"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cifar10-subset.npz is corrupted"):
        data.load("cifar10", tmp_path)
    np.savez(path, **{name: arrays[name] for name in list(arrays)[:3]})
    with pytest.raises(ValueError, match=r"must hold the arrays train_images, train_labels"):
        data.load("cifar10", tmp_path)
    np.savez(path, **arrays | {"test_labels": np.full(4, 10, np.uint8)})
    with pytest.raises(ValueError, match=r"a test label is 10, but there are 10 classes"):
        data.load("cifar10", tmp_path)


def test_cifar10_archive(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    members = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    images = rng.integers(0, 256, (6, 4, 3 * 32 * 32), np.uint8)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, batch in zip(members, images, strict=True):
            content = pickle.dumps({b"data": batch, b"labels": [0, 1, 2, 9]})
            info = tarfile.TarInfo(f"cifar-10-batches-py/{member}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(data, "_CIFAR10", data._File(path.name, sha256, "https://nowhere"))
    loaded = data.load("cifar10", tmp_path)
    assert np.array_equal(loaded.train_images, images[:5].reshape(20, 3, 32, 32))
    assert np.array_equal(loaded.test_images, images[5].reshape(4, 3, 32, 32))
    assert loaded.test_labels.tolist() == [0, 1, 2, 9]


def test_a_wrong_cifar10_archive_is_not_opened(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"pickles run code")
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz is corrupted.*where 6d958be0"):
        data.load("cifar10", tmp_path)


def test_unknown_name():
    with pytest.raises(ValueError, match="the data set is 'imagenet', but there are digits, mnist"):
        data.load("imagenet")
