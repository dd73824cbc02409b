import errno
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainables import data as data_module
from trainables.config import DataConfig
from trainables.data import load_data
from trainables.errors import DataError
from trainables.image_folder import Collection, square
from trainables.sources import SOURCES, Source

DIGITS = DataConfig(name="digits")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def folder_config(root, **settings):
    return DataConfig(name="image_folder", path=str(root), **{"image_size": 8, **settings})


def save_image(path, value=0, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, value, value)).save(path)


def make_folder(root, *, parts=("",), classes=("cat", "dog"), images=10):
    """Every image has a gray value of its own: where it ended up can be read from its pixels."""
    value = 0
    for part in parts:
        for name in classes:
            for i in range(images):
                save_image(root / part / name / f"{i}.png", value)
                value += 1
    return root


def values(split):
    """First pixel of every image."""
    return split.images[:, 0, 0, 0].tolist()


def stored(count, classes=2, **parts):
    """A collection whose i-th image is all i, with labels in turn."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(4, 2).repeat(4, 3)
    labels = np.arange(count) % classes
    rows = parts or {"train": np.arange(count)}
    return Collection(tuple("abcdefgh"[:classes]), images, labels, rows)


# --- splits --------------------------------------------------------------------------------------


def test_splits_are_disjoint_and_complete(cache):
    data = load_data(folder_config(make_folder(cache.parent / "images", images=20)), cache)
    everything = values(data.train) + values(data.val) + values(data.test)
    assert sorted(everything) == list(range(40))
    assert (len(data.train), len(data.val), len(data.test)) == (28, 6, 6)


@given(
    counts=st.lists(st.integers(3, 40), min_size=2, max_size=5),
    shares=st.tuples(st.floats(0.01, 0.89), st.floats(0.01, 0.89)),
    seed=st.integers(-5, 5),
)
def test_every_class_is_in_every_split_by_its_share(counts, shares, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(str(i) for i in range(len(counts)))
    whole = Collection(names, np.zeros((len(labels), 1, 4, 4), np.uint8), labels, {})
    whole = whole._replace(parts={"train": np.arange(len(labels))})
    config = DataConfig(
        name="digits", test_share=shares[0], validation_share=shares[1], split_seed=seed
    )
    split = data_module._split(whole, config)
    assert sorted(np.concatenate(list(split.values()))) == list(range(len(labels)))
    for rows in split.values():
        assert set(labels[rows]) == set(range(len(counts)))
    for label, count in enumerate(counts):
        held = (labels[split["test"]] == label).sum()
        assert abs(held - shares[0] * count) <= 1 or held in (1, count - 2)


def test_the_split_follows_its_seed_alone(cache):
    first = load_data(DIGITS, cache)
    again = load_data(DIGITS, cache.with_name("other"))
    other = load_data(DataConfig(name="digits", split_seed=1), cache)
    assert first.fingerprint == again.fingerprint
    assert np.array_equal(first.train.images, again.train.images)
    assert first.fingerprint != other.fingerprint


def test_a_prefix_of_a_split_is_a_fair_sample(cache):
    data = load_data(folder_config(make_folder(cache.parent / "images", images=40)), cache)
    assert 8 <= data.train.labels[:28].sum() <= 20  # sorted by class it would be 0


def test_own_test_part_is_kept_and_validation_is_drawn_from_train(cache):
    root = make_folder(cache.parent / "images", parts=("train", "test"), images=10)
    data = load_data(folder_config(root), cache)
    assert sorted(values(data.test)) == list(range(20, 40))
    assert sorted(values(data.train) + values(data.val)) == list(range(20))


def test_own_validation_part_is_kept(cache):
    root = make_folder(cache.parent / "images", parts=("train", "val", "test"), images=10)
    data = load_data(folder_config(root), cache)
    assert sorted(values(data.val)) == list(range(20, 40))
    assert len(data.train) == 20


def test_a_class_with_too_few_images_is_named(cache):
    root = make_folder(cache.parent / "images", images=10)
    save_image(root / "rare" / "1.png")
    save_image(root / "rare" / "2.png")
    with pytest.raises(DataError, match=r"'rare' has 2 images.*at least 3"):
        load_data(folder_config(root), cache)


# --- numbers -------------------------------------------------------------------------------------


def test_digits_come_at_their_own_size_in_full_range(cache):
    data = load_data(DIGITS, cache)
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert (data.channels, data.image_size, len(data.classes)) == (1, 8, 10)
    assert data.train.images.min() == 0
    assert data.train.images.max() == 255


def test_digits_are_resized_and_coloured(cache):
    data = load_data(DataConfig(name="digits", image_size=16, channels=3), cache)
    assert data.train.images.shape[1:] == (3, 16, 16)
    assert np.array_equal(data.train.images[:, 0], data.train.images[:, 2])


def test_mean_and_std_are_those_of_the_training_images_alone(cache):
    data = load_data(DIGITS, cache)
    assert data.mean.dtype == data.std.dtype == np.float32
    assert data.mean == pytest.approx((data.train.images / 255).mean((0, 2, 3)), rel=1e-6)
    assert data.std == pytest.approx((data.train.images / 255).std((0, 2, 3)), rel=1e-6)
    assert data.mean != pytest.approx((data.test.images / 255).mean((0, 2, 3)), rel=1e-6)


def test_normalised_images_have_mean_zero_and_variance_one(cache):
    data = load_data(DataConfig(name="digits", channels=3), cache)
    images = data.normalised(data.train.images.transpose(0, 1, 3, 2))
    assert images.dtype == np.float32
    assert images.flags.c_contiguous
    assert images.mean((0, 2, 3)) == pytest.approx(0, abs=1e-5)
    assert images.std((0, 2, 3)) == pytest.approx(1, abs=1e-5)


def test_a_constant_channel_is_only_shifted(cache, monkeypatch):
    blank = stored(20)._replace(images=np.full((20, 1, 4, 4), 7, np.uint8))
    monkeypatch.setitem(SOURCES, "digits", Source(lambda config, cache: blank))
    data = load_data(DIGITS, cache)
    assert np.all(data.normalised(data.train.images) == 0)


# --- the cache -----------------------------------------------------------------------------------


def test_a_second_load_maps_what_the_first_prepared(cache, monkeypatch):
    first = load_data(DIGITS, cache)
    monkeypatch.setitem(SOURCES, "digits", Source(lambda config, cache: pytest.fail("read again")))
    second = load_data(DIGITS, cache)
    assert isinstance(second.train.images, np.memmap)
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(second.train.labels, first.train.labels)
    assert second.mean.tobytes() == first.mean.tobytes()


def test_the_environment_names_the_cache(cache, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE", str(cache))
    load_data(DIGITS)
    assert [p.name for p in cache.iterdir()] == ["data"]


def test_many_readers_prepare_once(cache, monkeypatch):
    calls = []

    def slow(config, cache):
        calls.append(threading.get_ident())
        return stored(40)

    monkeypatch.setitem(SOURCES, "digits", Source(slow))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(load_data(DIGITS, cache))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len({data.fingerprint for data in found}) == 1
    assert len(found) == 8


def test_what_a_dead_process_left_is_swept_away(cache):
    load_data(DIGITS, cache)
    (folder,) = [p for p in (cache / "data").iterdir() if p.is_dir()]
    unfinished = folder.with_suffix(".unfinished")
    folder.rename(unfinished)
    (unfinished / "train_images.npy").write_bytes(b"half")
    assert len(load_data(DIGITS, cache).train) == 1300
    assert not unfinished.exists()


def test_a_failed_preparation_leaves_nothing_to_be_found(cache, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(data_module, "_copy", full)
        with pytest.raises(DataError, match=r"No space left.*PARETUNE_CACHE"):
            load_data(DIGITS, cache)
    assert len(load_data(DIGITS, cache).train) == 1300


def test_damaged_prepared_data_are_named(cache):
    load_data(DIGITS, cache)
    (images,) = cache.glob("data/*/val_images.npy")
    images.write_bytes(images.read_bytes()[:200])
    with pytest.raises(DataError, match="delete that folder"):
        load_data(DIGITS, cache)


def test_an_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="PARETUNE_CACHE"):
        load_data(DIGITS, tmp_path / "file")


@pytest.mark.parametrize("change", ["added", "touched", "resized"])
def test_a_changed_folder_is_prepared_anew(cache, change):
    root = make_folder(cache.parent / "images")
    before = load_data(folder_config(root), cache)
    assert load_data(folder_config(root), cache).fingerprint == before.fingerprint
    path = root / "cat" / ("new.png" if change == "added" else "0.png")
    old = (root / "cat" / "0.png").stat().st_mtime_ns
    if change == "resized":
        save_image(path, 200, (9, 9))
        os.utime(path, ns=(old, old))
    else:
        save_image(path, 200)
        os.utime(path, ns=(old + 10**9, old + 10**9))
    assert load_data(folder_config(root), cache).fingerprint != before.fingerprint


# --- torchvision ---------------------------------------------------------------------------------


class FakeTorchvisionSet:
    classes = ("zero", "one")
    roots: list[Path] = []

    def __init__(self, root, train, download):
        self.roots.append(root)
        count = 20 if train else 6
        self.data = np.full((count, 5, 5, 3), 10 if train else 90, np.uint8)
        self.targets = [i % 2 for i in range(count)]

    def __len__(self):
        return len(self.targets)


def test_torchvision_sets_bring_their_own_test_part(cache, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", FakeTorchvisionSet)
    data = load_data(DataConfig(name="cifar10", channels=1, image_size=4), cache)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 6)
    assert np.all(data.test.images == 90)
    assert np.all(data.train.images == 10)
    assert data.test.images.shape[1:] == (1, 4, 4)
    assert data.classes == ("zero", "one")
    assert FakeTorchvisionSet.roots[-1] == cache / "torchvision"


def test_a_failed_download_says_what_to_do(cache, monkeypatch):
    def offline(root, train, download):
        raise RuntimeError("Error downloading")

    monkeypatch.setattr("torchvision.datasets.MNIST", offline)
    with pytest.raises(DataError, match=r"mnist is not in .*Error downloading.*`path`.*digits"):
        load_data(DataConfig(name="mnist"), cache)


# --- image folders -------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_mode_is_read(cache, channels):
    root = make_folder(cache.parent / "images")
    wide, tall = Image.new("RGBA", (30, 7), (9, 9, 9, 5)), Image.new("P", (3, 11), 0)
    wide.save(root / "cat" / "wide.png")
    tall.save(root / "dog" / "tall.GIF")
    Image.new("CMYK", (40, 90)).save(root / "dog" / "print.jpg")
    Image.fromarray(np.full((9, 9), 128 * 256, np.uint16)).save(root / "dog" / "deep.png")
    data = load_data(folder_config(root, channels=channels), cache)
    assert data.train.images.shape[1:] == (channels, 8, 8)
    everything = values(data.train) + values(data.val) + values(data.test)
    assert len(everything) == 24
    assert 128 in everything  # 16-bit gray is scaled, not clipped


def test_default_size_and_channels(cache):
    config = DataConfig(name="image_folder", path=str(make_folder(cache.parent / "images")))
    assert load_data(config, cache).train.images.shape[1:] == (3, 64, 64)


def test_the_shorter_side_is_resized_and_the_centre_cropped():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    resized = image.resize((20, 8), Image.Resampling.BILINEAR).crop((6, 0, 14, 8))
    assert np.array_equal(square(image, 3, 8), np.asarray(resized).transpose(2, 0, 1))


def test_a_very_long_image_stays_small():
    assert square(Image.new("L", (100_000, 1), 7), 1, 64).shape == (1, 64, 64)


def test_photographs_are_turned_upright(cache):
    root = make_folder(cache.parent / "images", images=2)
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4] = 240
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for name in ("cat", "dog"):
        Image.fromarray(pixels).save(root / name / "turned.png", exif=exif)
    data = load_data(folder_config(root, channels=1), cache)
    images = np.concatenate([data.train.images, data.val.images, data.test.images])
    assert (images[:, 0, 7, 0] == 240).sum() == 2


def test_hidden_and_other_files_are_ignored(cache):
    root = make_folder(cache.parent / "images")
    (root / "cat" / ".hidden.png").write_bytes(b"no image")
    (root / "cat" / "labels.csv").write_text("a,b")
    (root / ".cache").mkdir()
    (root / "README.md").write_text("about")
    data = load_data(folder_config(root), cache)
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.val) + len(data.test) == 20


def test_one_damaged_image_is_reported_and_left_out(cache, caplog):
    root = make_folder(cache.parent / "images")
    whole = (root / "cat" / "3.png").read_bytes()
    (root / "cat" / "3.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING, "paretune"):
        data = load_data(folder_config(root), cache)
    assert len(data.train) + len(data.val) + len(data.test) == 19
    assert 3 not in values(data.train) + values(data.val) + values(data.test)
    assert "cat/3.png" in caplog.text


def test_many_damaged_images_are_an_error(cache):
    root = make_folder(cache.parent / "images")
    for i in (3, 4):
        (root / "cat" / f"{i}.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match=r"2 of 20 images cannot be read.*cat/3.png"):
        load_data(folder_config(root), cache)


def test_a_decompression_bomb_counts_as_damaged(cache, caplog, monkeypatch):
    root = make_folder(cache.parent / "images")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    save_image(root / "dog" / "bomb.png", size=(11, 10))
    load_data(folder_config(root), cache)
    assert "dog/bomb.png" in caplog.text


def test_a_class_of_damaged_images_only_is_an_error(cache):
    root = make_folder(cache.parent / "images")
    (root / "broken").mkdir()
    (root / "broken" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="class 'broken' in train"):
        load_data(folder_config(root), cache)


def test_fewer_than_two_classes_is_an_error(cache):
    root = make_folder(cache.parent / "images", classes=("cat",))
    with pytest.raises(DataError, match=r"has 1 class folders \(cat\).*at least 2"):
        load_data(folder_config(root), cache)


def test_an_empty_class_is_named(cache):
    root = make_folder(cache.parent / "images")
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="images/empty has no images"):
        load_data(folder_config(root), cache)


def test_a_missing_folder_is_named(cache, tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load_data(folder_config(tmp_path / "nowhere"), cache)


def test_parts_with_other_classes_are_refused(cache):
    root = make_folder(cache.parent / "images", parts=("train", "test"))
    save_image(root / "test" / "bird" / "1.png")
    with pytest.raises(DataError, match="train and test differ in classes: bird"):
        load_data(folder_config(root), cache)


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("cat/out.png", "../../outside/1.png", "leaves"),
        ("bird", "../outside", "leaves"),
        ("train", "../outside", "leaves"),
        ("cat/twice", "../dog", "link to a folder"),
        ("cat/lost.png", "gone.png", "leads nowhere"),
    ],
)
def test_links_that_leave_the_folder_are_refused(cache, link, target, message):
    root = make_folder(cache.parent / "images")
    make_folder(cache.parent / "outside", classes=("", "cat", "dog"))
    save_image(cache.parent / "outside" / "1.png")
    if link == "train":
        make_folder(root / "test")
    (root / link).symlink_to(target)
    with pytest.raises(DataError, match=message):
        load_data(folder_config(root), cache)


def test_a_link_inside_the_folder_is_followed(cache):
    root = make_folder(cache.parent / "images")
    (root / "cat" / "again.png").symlink_to("0.png")
    data = load_data(folder_config(root), cache)
    assert len(data.train) + len(data.val) + len(data.test) == 21
