import errno
import os
import threading

import pytest

from search.errors import StorageError
from search.study import storage


@pytest.fixture(params=["folder", "object store"])
def location(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "place")
    # fsspec's store in memory stands for s3: the same calls, no rename.
    return f"memory://bucket/{tmp_path.name}"


def test_what_was_written_is_listed_read_replaced_and_removed(location):
    path = storage.join(location, "deep", "a.bin")
    assert not storage.exists(path)
    storage.write_whole(path, b"one")
    storage.write_whole(path, b"two")
    storage.write_whole(storage.join(location, "deep", "b.bin"), b"")
    assert storage.list_names(storage.join(location, "deep")) == ["a.bin", "b.bin"]
    assert storage.list_names(location) == ["deep"]
    assert storage.read(path) == b"two"
    assert storage.exists(path)
    storage.remove(path)
    storage.remove(path)
    assert storage.list_names(storage.join(location, "deep")) == ["b.bin"]


def test_several_files_are_read_at_once_and_missing_ones_are_none(location):
    storage.write_whole(storage.join(location, "a"), b"A")
    storage.write_whole(storage.join(location, "b"), b"B")
    found = storage.read_several(location, ["b", "gone", "a"])
    assert found == {"b": b"B", "gone": None, "a": b"A"}
    assert storage.read_several(location, []) == {}


def test_a_folder_that_is_not_there_is_empty(location):
    assert storage.list_names(storage.join(location, "nothing")) == []


def test_a_missing_file_is_named(location):
    path = storage.join(location, "gone")
    with pytest.raises(StorageError, match=r"cannot read .*gone: there is no such file"):
        storage.read(path)


def test_a_crash_while_writing_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "row.json"
    storage.write_whole(str(path), b"whole")

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        storage.write_whole(str(path), b"half")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_files_under_way_are_not_listed(tmp_path):
    (tmp_path / ".row.json.0123abcd.tmp").write_bytes(b"ha")
    (tmp_path / "row.json").write_bytes(b"whole")
    assert storage.list_names(str(tmp_path)) == ["row.json"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = str(tmp_path / "row.json")
    contents = [b"a" * 100_000, b"b" * 50_000]
    storage.write_whole(path, contents[0])
    done = threading.Event()

    def write():
        for i in range(50):
            storage.write_whole(path, contents[i % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(storage.read(path))
    writer.join()
    assert seen <= set(contents)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EACCES, "permission denied"),
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_refusal_is_one_clear_message(tmp_path, monkeypatch, code, said):
    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError) as error:
        storage.write_whole(str(tmp_path / "row.json"), b"x")
    assert f"cannot write {tmp_path}/row.json" in str(error.value)
    assert said in str(error.value)
    assert isinstance(error.value.__cause__, OSError)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_said(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*taken/a"):
        storage.write_whole(str(tmp_path / "taken" / "a"), b"x")


def test_an_unknown_kind_of_storage_is_said():
    with pytest.raises(StorageError, match=r"cannot list nonsense://bucket.*nonsense"):
        storage.list_names("nonsense://bucket")


@pytest.mark.parametrize("location", ["s3://bucket/prefix/", "memory://a/b"])
def test_an_address_is_absolute_already(location):
    assert storage.absolute(location) == location.rstrip("/")


def test_a_relative_folder_is_meant_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("./studies/digits/") == str(tmp_path / "studies" / "digits")


def test_a_folder_is_removed_with_all_in_it(tmp_path):
    storage.write_whole(f"{tmp_path}/a/b/c.txt", b"x")
    storage.remove_folder(f"{tmp_path}/a")
    storage.remove_folder(f"{tmp_path}/a")
    assert not (tmp_path / "a").exists()
