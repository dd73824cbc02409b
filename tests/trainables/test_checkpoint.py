"""Checkpoints: written whole, read without trusting them."""

import pickle
import socket

import pytest
import torch

from trainables.checkpoint import load_checkpoint, read_head, save_checkpoint

HEAD = {"config": {"seed": 3}, "curve": [{"epoch": 1, "loss": float("nan")}]}


@pytest.fixture
def location(tmp_path) -> str:
    return str(tmp_path / "running" / "0123abcd.ckpt")


@pytest.fixture(params=["folder", "memory"])
def place(request, location, tmp_path):
    return location if request.param == "folder" else f"memory://{tmp_path.name}/0123abcd.ckpt"


def test_what_was_saved_is_loaded_bit_for_bit(place):
    state = {"w": torch.randn(3, 4), "step": 7, "groups": [{"lr": 0.1 + 0.2}]}
    save_checkpoint(place, {"epoch": 7}, state)
    head, loaded = load_checkpoint(place)
    assert head == {"epoch": 7}
    assert torch.equal(loaded.pop("w"), state.pop("w"))
    assert loaded == state


def test_the_head_is_read_without_the_tensors(place):
    save_checkpoint(place, {"epoch": 7}, {"w": torch.zeros(10_000)})
    assert read_head(place) == {"epoch": 7}


def test_a_later_checkpoint_takes_the_place_of_an_earlier_one(location, tmp_path):
    save_checkpoint(location, {"epoch": 1}, {})
    save_checkpoint(location, {"epoch": 2}, {})
    assert load_checkpoint(location) == ({"epoch": 2}, {})
    assert len(list((tmp_path / "running").iterdir())) == 1


def test_no_checkpoint_is_none(place):
    assert load_checkpoint(place) is None
    assert read_head(place) is None


@pytest.mark.parametrize("kept", [0, 4, 12, 30, 200])
def test_a_torn_file_is_said_to_be_torn(location, tmp_path, kept):
    save_checkpoint(location, {"epoch": 7}, {"w": torch.zeros(1000)})
    whole = (tmp_path / "running" / "0123abcd.ckpt").read_bytes()
    (tmp_path / "running" / "0123abcd.ckpt").write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"0123abcd\.ckpt"):
        load_checkpoint(location)


class Harmful:
    def __reduce__(self):
        return socket.gethostname, ()


def test_nothing_but_tensors_is_unpickled(location, tmp_path):
    save_checkpoint(location, {}, {})
    path = tmp_path / "running" / "0123abcd.ckpt"
    path.write_bytes((2).to_bytes(8, "big") + b"{}" + pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match="no usable state"):
        load_checkpoint(location)
