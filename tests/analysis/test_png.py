"""A picture's file is whole or absent."""

import pytest

from scmm.analysis.png import write_png


def test_makes_the_folder_and_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "picture.png"
    for content in (b"first", b"second"):
        assert write_png(path, lambda file, content=content: file.write(content)) == path
        assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    def fail(file):
        file.write(b"half")
        raise RuntimeError("drawing failed")

    path = write_png(tmp_path / "picture.png", lambda file: file.write(b"old"))
    with pytest.raises(RuntimeError, match="drawing failed"):
        write_png(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
