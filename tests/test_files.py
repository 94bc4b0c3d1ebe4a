import numpy as np
import pytest

from limnet.files import atomic_write, peak_memory, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "mask.nii.gz"
    path.write_text("before")
    with atomic_write(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
        assert partial.parent == tmp_path and partial.name.endswith("-mask.nii.gz")
        assert partial.name.startswith(".")
    assert path.read_text() == "after" and names(tmp_path) == ["mask.nii.gz"]


def test_what_fails_leaves_nothing_and_changes_nothing(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(OSError, match="disk full"), atomic_write(path) as partial:
        partial.write_text("hal")
        raise OSError("disk full")
    assert path.read_text() == "before" and names(tmp_path) == ["a.json"]


def test_who_writes_nothing_is_told(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_text_is_utf_8(tmp_path):
    write_whole(tmp_path / "a.txt", "größer")
    assert (tmp_path / "a.txt").read_bytes() == "größer".encode()


def test_peak_memory_rises_with_what_a_process_holds():
    before = peak_memory()
    held = np.ones(200_000_000, dtype=np.uint8)
    assert peak_memory() >= before and peak_memory() >= held.nbytes
